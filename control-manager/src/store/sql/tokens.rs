//! Registration tokens: an entity that has one is let in without being approved.

use writ_database::dialect::digests_like;
use writ_database::{Connection, Record, ToValue as _, values};
use writ_protocol::id::Digest;
use writ_protocol::keys::PublicKey;
use writ_protocol::manager::{TokenProof, TokenVerifier};
use writ_protocol::time::Timestamp;

use super::super::rows::TokenRow;
use super::super::{Change, Store, StoreError};

fn read(record: &Record<'_>) -> Result<TokenRow, StoreError> {
    Ok(TokenRow {
        sequence: record.get("sequence")?,
        digest: record.get("token_digest")?,
        max_uses: record.get("max_uses")?,
        uses: record.get("uses")?,
        expires_at: record.get("expires_at")?,
        created_by: record.get("created_by")?,
        revoked_at: record.get("revoked_at")?,
    })
}

impl Store {
    /// Records a token.
    pub(crate) async fn create_token(
        &self,
        digest: Digest,
        verifier: &TokenVerifier,
        uses: u32,
        expires_at: Timestamp,
        created_by: String,
    ) -> Result<(), StoreError> {
        let sql = "INSERT INTO registration_tokens (token_digest, verifier, max_uses, expires_at, created_by)
                   VALUES (?1, ?2, ?3, ?4, ?5)";
        let verifier = *verifier.as_bytes();
        let write = move |connection: &mut Connection| {
            connection.execute(sql, &values![digest, verifier, uses, expires_at, created_by]).map(drop)
        };
        self.database.write(write).await
    }

    /// Tokens before a place in the order of creation, latest first.
    pub(crate) async fn tokens(&self, before: u64, limit: u32) -> Result<Vec<TokenRow>, StoreError> {
        let sql = "SELECT * FROM registration_tokens WHERE sequence < ?1 ORDER BY sequence DESC LIMIT ?2";
        self.database.read(move |connection| connection.fetch(sql, &values![before, limit], read)).await
    }

    /// Tokens whose digest begins with these hex digits, at most two.
    pub(crate) async fn tokens_like(&self, prefix: &str) -> Result<Vec<TokenRow>, StoreError> {
        let Some((first, last)) = digests_like(prefix) else { return Ok(Vec::new()) };
        let sql = "SELECT * FROM registration_tokens WHERE token_digest BETWEEN ?1 AND ?2 LIMIT 2";
        self.database.read(move |connection| connection.fetch(sql, &values![first, last], read)).await
    }

    /// Nobody comes in with a token any more. Revoking twice is revoking once.
    pub(crate) async fn revoke_token(&self, digest: Digest, now: Timestamp) -> Result<(), StoreError> {
        let sql = "UPDATE registration_tokens SET revoked_at = ?2 WHERE token_digest = ?1 AND revoked_at = 0";
        self.database.write(move |connection| connection.execute(sql, &values![digest, now]).map(drop)).await
    }
}

impl Change<'_> {
    /// Spends one use of a token, if the proof is this key's; whether it was and there was one.
    pub(crate) fn spend(
        &mut self,
        shown: &TokenProof,
        key: &PublicKey,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let sql = "SELECT * FROM registration_tokens WHERE token_digest = ?1";
        let known = self.0.first(sql, &values![shown.id], |record| {
            Ok((TokenVerifier::from_bytes(record.get("verifier")?), read(record)?))
        })?;
        let Some((verifier, token)) = known else { return Ok(false) };
        if !verifier.accepts(shown, key) || !token.is_usable(now) {
            return Ok(false);
        }
        let sql = "UPDATE registration_tokens SET uses = uses + 1 WHERE token_digest = ?1";
        self.0.execute(sql, &values![shown.id]).map(|_| true)
    }
}
