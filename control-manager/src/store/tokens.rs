//! Registration tokens: who has one is let in without being approved.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use writ_common::id::Digest;
use writ_common::keys::PublicKey;
use writ_common::manager::{TokenProof, TokenVerifier};
use writ_common::time::Timestamp;

use super::{Store, StoreError, id, integer, time, unsigned};

/// A token as stored: never its secret.
#[derive(Debug, Clone)]
pub struct TokenRow {
    /// The order of creation.
    pub sequence: u64,
    /// What it is known by.
    pub digest: Digest,
    /// How often it counts.
    pub max_uses: u32,
    /// How often it did.
    pub uses: u32,
    /// The first moment it does not count any more.
    pub expires_at: Timestamp,
    /// By whom.
    pub created_by: String,
    /// Zero: not.
    pub revoked_at: Timestamp,
}

impl TokenRow {
    fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        let number = |column| Ok::<_, StoreError>(u32::try_from(unsigned(row, column)?).unwrap_or(u32::MAX));
        Ok(Self {
            sequence: unsigned(row, "sequence")?,
            digest: id(row, "token_digest", "token digest")?,
            max_uses: number("max_uses")?,
            uses: number("uses")?,
            expires_at: time(row, "expires_at")?,
            created_by: row.try_get("created_by")?,
            revoked_at: time(row, "revoked_at")?,
        })
    }
}

impl Store {
    /// Records a token.
    pub async fn create_token(
        &self,
        digest: Digest,
        verifier: &TokenVerifier,
        uses: u32,
        expires_at: Timestamp,
        created_by: &str,
    ) -> Result<(), StoreError> {
        let sql = "INSERT INTO registration_tokens (token_digest, verifier, max_uses, expires_at, created_by)
                   VALUES ($1, $5, $2, $3, $4)";
        sqlx::query(sql)
            .bind(digest.as_bytes().as_slice())
            .bind(i64::from(uses))
            .bind(integer(expires_at.as_millis()))
            .bind(created_by)
            .bind(verifier.as_bytes().as_slice())
            .execute(&mut *self.writer.lock().await)
            .await?;
        Ok(())
    }

    /// Tokens before a place in the order of creation, latest first.
    pub async fn tokens(&self, before: u64, limit: u32) -> Result<Vec<TokenRow>, StoreError> {
        let sql = "SELECT * FROM registration_tokens WHERE sequence < $1 ORDER BY sequence DESC LIMIT $2";
        let rows =
            sqlx::query(sql).bind(integer(before)).bind(i64::from(limit)).fetch_all(&self.reader).await?;
        rows.iter().map(TokenRow::read).collect()
    }

    /// Tokens whose digest begins with these hex digits, at most two.
    pub async fn tokens_like(&self, prefix: &str) -> Result<Vec<TokenRow>, StoreError> {
        let sql = "SELECT * FROM registration_tokens
                   WHERE substr(lower(hex(token_digest)), 1, length($1)) = lower($1) LIMIT 2";
        let rows = sqlx::query(sql).bind(prefix.to_owned()).fetch_all(&self.reader).await?;
        rows.iter().map(TokenRow::read).collect()
    }

    /// Nobody comes in with a token any more. Revoking twice is revoking once.
    pub async fn revoke_token(&self, digest: Digest, now: Timestamp) -> Result<(), StoreError> {
        let sql = "UPDATE registration_tokens SET revoked_at = $2 WHERE token_digest = $1 AND revoked_at = 0";
        sqlx::query(sql)
            .bind(digest.as_bytes().as_slice())
            .bind(integer(now.as_millis()))
            .execute(&mut *self.writer.lock().await)
            .await?;
        Ok(())
    }
}

/// Spends one use, if the proof is this key's; whether it was and there was one.
pub(super) async fn spend(
    connection: &mut SqliteConnection,
    shown: &TokenProof,
    key: &PublicKey,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let known = sqlx::query("SELECT verifier FROM registration_tokens WHERE token_digest = $1")
        .bind(shown.id.as_bytes().as_slice())
        .fetch_optional(&mut *connection)
        .await?;
    let verifier =
        known.map(|row| Ok::<_, StoreError>(row.try_get::<Vec<u8>, _>("verifier")?)).transpose()?;
    let verifier = verifier.and_then(|bytes| bytes.try_into().ok()).map(TokenVerifier::from_bytes);
    if !verifier.is_some_and(|verifier| verifier.accepts(shown, key)) {
        return Ok(false);
    }
    let sql = "UPDATE registration_tokens SET uses = uses + 1
               WHERE token_digest = $1 AND uses < max_uses AND expires_at > $2 AND revoked_at = 0";
    let spent = sqlx::query(sql)
        .bind(shown.id.as_bytes().as_slice())
        .bind(integer(now.as_millis()))
        .execute(connection)
        .await?;
    Ok(spent.rows_affected() == 1)
}
