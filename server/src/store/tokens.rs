//! Who may come in: administrators by bearer tokens, agents by enrolment tokens. Only digests are kept.

use bytes::Bytes;
use sqlx::{Row as _, SqliteConnection};
use writ_common::id::{AgentId, Digest};
use writ_common::keys::PublicKey;
use writ_common::time::Timestamp;

use super::{Store, StoreError, bytes, id, integer, time, unsigned};

/// A new agent, ready to be recorded.
#[derive(Debug)]
pub struct Admission {
    /// Its id.
    pub agent: AgentId,
    /// Its name.
    pub name: String,
    /// Its key.
    pub public_key: PublicKey,
    /// The signed identity record.
    pub identity_record: Bytes,
    /// The token.
    pub token: Digest,
    /// The agent's version.
    pub agent_version: String,
    /// When.
    pub now: Timestamp,
}

/// What spending a token came to.
#[derive(Debug, PartialEq, Eq)]
pub enum TokenUse {
    /// The agent's identity record: the new one, or the one the same key got before.
    Admitted(Bytes),
    /// All its uses are spent, or it does not exist, or it ended. Strangers are not told which.
    Refused,
}

impl Store {
    /// The name and role behind a bearer token.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn admin(&self, token: Digest) -> Result<Option<(String, u8)>, StoreError> {
        let row = sqlx::query("SELECT name, role FROM admin_tokens WHERE token_digest = $1")
            .bind(token.as_bytes().as_slice())
            .fetch_optional(&self.reader)
            .await?;
        row.map(|row| {
            let role =
                u8::try_from(row.try_get::<i64, _>("role")?).map_err(|_| StoreError::Damaged("role"))?;
            Ok((row.try_get("name")?, role))
        })
        .transpose()
    }

    /// Records an enrolment token.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn create_enrolment_token(
        &self,
        token: Digest,
        realm: String,
        uses: u32,
        expires_at: Timestamp,
        created_by: String,
    ) -> Result<(), StoreError> {
        self.write(move |connection| {
            Box::pin(async move {
                sqlx::query("INSERT INTO enrolment_tokens VALUES ($1, $2, $3, 0, $4, $5)")
                    .bind(token.as_bytes().as_slice())
                    .bind(realm)
                    .bind(i64::from(uses))
                    .bind(integer(expires_at.as_millis()))
                    .bind(created_by)
                    .execute(connection)
                    .await?;
                Ok(())
            })
        })
        .await
    }

    /// The realm of a token that has not ended; spent ones included, for their own agents may ask again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn enrolment_realm(&self, token: Digest, now: Timestamp) -> Result<Option<String>, StoreError> {
        let row = sqlx::query("SELECT realm, expires_at FROM enrolment_tokens WHERE token_digest = $1")
            .bind(token.as_bytes().as_slice())
            .fetch_optional(&self.reader)
            .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(if time(&row, "expires_at")? > now { Some(row.try_get("realm")?) } else { None })
    }

    /// Spends one use of a token and records the agent, or finds what the same token and key got before.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn admit(&self, admission: Admission) -> Result<TokenUse, StoreError> {
        self.write(move |connection| Box::pin(async move { admit(connection, admission).await })).await
    }
}

async fn admit(connection: &mut SqliteConnection, admission: Admission) -> Result<TokenUse, StoreError> {
    let Admission { agent, name, public_key, identity_record, token, agent_version, now } = admission;
    let spki = public_key.spki();
    let known = sqlx::query("SELECT identity_record, token_digest FROM agents WHERE public_key = $1")
        .bind(&spki)
        .fetch_optional(&mut *connection)
        .await?;
    if let Some(row) = known {
        let enrolled_with: Digest = id(&row, "token_digest", "token digest")?;
        let is_same_token = enrolled_with == token;
        return Ok(if is_same_token {
            TokenUse::Admitted(bytes(&row, "identity_record")?)
        } else {
            TokenUse::Refused
        });
    }
    let spent = sqlx::query(
        "UPDATE enrolment_tokens SET uses = uses + 1
         WHERE token_digest = $1 AND uses < max_uses AND expires_at > $2 RETURNING realm, uses",
    )
    .bind(token.as_bytes().as_slice())
    .bind(integer(now.as_millis()))
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = spent else { return Ok(TokenUse::Refused) };
    let _uses = unsigned(&row, "uses")?;
    let realm: String = row.try_get("realm")?;
    sqlx::query(
        "INSERT INTO agents (agent_id, name, realm, public_key, token_digest, identity_record, enrolled_at, agent_version)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(agent.as_bytes().as_slice())
    .bind(name)
    .bind(realm)
    .bind(spki)
    .bind(token.as_bytes().as_slice())
    .bind(identity_record.as_ref())
    .bind(integer(now.as_millis()))
    .bind(agent_version)
    .execute(connection)
    .await?;
    Ok(TokenUse::Admitted(identity_record))
}

pub(super) async fn insert_admin(
    connection: &mut SqliteConnection,
    token: Digest,
    name: &str,
    role: u8,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO admin_tokens VALUES ($1, $2, $3, $4)")
        .bind(token.as_bytes().as_slice())
        .bind(name)
        .bind(i64::from(role))
        .bind(integer(now.as_millis()))
        .execute(connection)
        .await?;
    Ok(())
}
