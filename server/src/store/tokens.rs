//! Who may come in: administrators by bearer tokens, agents by enrolment tokens. Only digests are kept.

use std::collections::HashMap;
use std::sync::PoisonError;

use bytes::Bytes;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use writ_common::id::{AgentId, Digest};
use writ_common::identity::IdentityRecord;
use writ_common::keys::PublicKey;
use writ_common::time::Timestamp;

use super::agents::put_attribute;
use super::alerts::{Alarm, AlertKind, raise};
use super::{Source, Store, StoreError, bytes, id, integer, time, unsigned};

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

/// A new enrolment token; the secret itself is never stored.
#[derive(Debug)]
pub struct NewToken {
    /// SHA-256 of its secret.
    pub token: Digest,
    /// The realm of its agents.
    pub realm: String,
    /// How many it lets in.
    pub uses: u32,
    /// Until when.
    pub expires_at: Timestamp,
    /// The operator.
    pub created_by: String,
}

/// An enrolment token as stored.
#[derive(Debug)]
pub struct EnrolmentTokenRow {
    /// Its place in the order of creation.
    pub sequence: u64,
    /// SHA-256 of its secret.
    pub token: Digest,
    /// The realm of its agents.
    pub realm: String,
    /// How many it lets in.
    pub max_uses: u32,
    /// How many came.
    pub uses: u32,
    /// Until when.
    pub expires_at: Timestamp,
    /// The operator.
    pub created_by: String,
    /// When it was revoked; zero: it was not.
    pub revoked_at: Timestamp,
}

/// Somebody who may call the admin port.
#[derive(Debug)]
pub struct AdminRow {
    /// Their name.
    pub name: String,
    /// Their role.
    pub role: u8,
    /// Since when.
    pub created_at: Timestamp,
    /// When they were revoked; zero: they were not.
    pub revoked_at: Timestamp,
}

/// What spending a token came to.
#[derive(Debug, PartialEq, Eq)]
pub enum TokenUse {
    /// The agent's identity record: the new one, or the one the same key got before.
    Admitted(Bytes),
    /// All its uses are spent, or it does not exist, or it ended. Strangers are not told which.
    Refused,
}

/// Tokens that were looked up. As many as there are people and scripts that call.
#[derive(Debug, Default)]
pub(super) struct Admins {
    by_token: HashMap<Digest, (String, u8)>,
    revocations: u64,
}

/// What revoking somebody came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revoked {
    /// Their token counts no more.
    Done,
    /// There is nobody of that name.
    Unknown,
    /// Nobody could administer this server any more.
    IsLast,
}

impl AdminRow {
    fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        Ok(Self {
            name: row.try_get("name")?,
            role: u8::try_from(row.try_get::<i64, _>("role")?).map_err(|_| StoreError::Damaged("role"))?,
            created_at: time(row, "created_at")?,
            revoked_at: time(row, "revoked_at")?,
        })
    }
}

impl EnrolmentTokenRow {
    fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        let number = |column| u32::try_from(unsigned(row, column)?).map_err(|_| StoreError::Damaged("uses"));
        Ok(Self {
            sequence: unsigned(row, "sequence")?,
            token: id(row, "token_digest", "token digest")?,
            realm: row.try_get("realm")?,
            max_uses: number("max_uses")?,
            uses: number("uses")?,
            expires_at: time(row, "expires_at")?,
            created_by: row.try_get("created_by")?,
            revoked_at: time(row, "revoked_at")?,
        })
    }
}

impl Store {
    /// The name and role behind a bearer token; remembered until somebody is revoked.
    pub async fn admin(&self, token: Digest) -> Result<Option<(String, u8)>, StoreError> {
        let revocations = {
            let known = self.admins.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(admin) = known.by_token.get(&token) {
                return Ok(Some(admin.clone()));
            }
            known.revocations
        };
        let admin = self.read_admin(token).await?;
        let mut known = self.admins.lock().unwrap_or_else(PoisonError::into_inner);
        // What was read before a revocation may be what was revoked.
        if let Some(admin) = admin.clone().filter(|_| known.revocations == revocations) {
            known.by_token.insert(token, admin);
        }
        Ok(admin)
    }

    async fn read_admin(&self, token: Digest) -> Result<Option<(String, u8)>, StoreError> {
        let sql = "SELECT name, role FROM admin_tokens WHERE token_digest = $1 AND revoked_at = 0";
        let row = sqlx::query(sql).bind(token.as_bytes().as_slice()).fetch_optional(&self.reader).await?;
        row.map(|row| {
            let role =
                u8::try_from(row.try_get::<i64, _>("role")?).map_err(|_| StoreError::Damaged("role"))?;
            Ok((row.try_get("name")?, role))
        })
        .transpose()
    }

    /// Records an enrolment token.
    pub async fn create_enrolment_token(&self, new: NewToken) -> Result<(), StoreError> {
        let NewToken { token, realm, uses, expires_at, created_by } = new;
        self.write(move |connection| {
            Box::pin(async move {
                sqlx::query(
                    "INSERT INTO enrolment_tokens (token_digest, realm, max_uses, expires_at, created_by)
                     VALUES ($1, $2, $3, $4, $5)",
                )
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
    pub async fn enrolment_realm(&self, token: Digest, now: Timestamp) -> Result<Option<String>, StoreError> {
        let sql = "SELECT realm, expires_at FROM enrolment_tokens WHERE token_digest = $1 AND revoked_at = 0";
        let row = sqlx::query(sql).bind(token.as_bytes().as_slice()).fetch_optional(&self.reader).await?;
        let Some(row) = row else { return Ok(None) };
        Ok(if time(&row, "expires_at")? > now { Some(row.try_get("realm")?) } else { None })
    }

    /// Enrolment tokens before a place in the order of creation, latest first.
    pub async fn enrolment_tokens(
        &self,
        before: u64,
        limit: u32,
    ) -> Result<Vec<EnrolmentTokenRow>, StoreError> {
        let sql =
            "SELECT rowid AS sequence, * FROM enrolment_tokens WHERE rowid < $1 ORDER BY rowid DESC LIMIT $2";
        let rows =
            sqlx::query(sql).bind(integer(before)).bind(i64::from(limit)).fetch_all(&self.reader).await?;
        rows.iter().map(EnrolmentTokenRow::read).collect()
    }

    /// Enrolment tokens whose digest begins with these hex digits, at most two.
    pub async fn enrolment_tokens_like(&self, prefix: &str) -> Result<Vec<EnrolmentTokenRow>, StoreError> {
        let sql = "SELECT rowid AS sequence, * FROM enrolment_tokens
                   WHERE substr(lower(hex(token_digest)), 1, length($1)) = lower($1) LIMIT 2";
        let rows = sqlx::query(sql).bind(prefix.to_owned()).fetch_all(&self.reader).await?;
        rows.iter().map(EnrolmentTokenRow::read).collect()
    }

    /// Nobody comes in with a token any more. Revoking twice is revoking once.
    pub async fn revoke_enrolment_token(&self, token: Digest, now: Timestamp) -> Result<(), StoreError> {
        self.write(move |connection| {
            Box::pin(async move {
                sqlx::query(
                    "UPDATE enrolment_tokens SET revoked_at = $2 WHERE token_digest = $1 AND revoked_at = 0",
                )
                .bind(token.as_bytes().to_vec())
                .bind(integer(now.as_millis()))
                .execute(connection)
                .await?;
                Ok(())
            })
        })
        .await
    }

    /// Records somebody who may call the admin port; `false` when the name was given before.
    pub async fn create_admin(
        &self,
        token: Digest,
        name: String,
        role: u8,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.write(move |connection| {
            Box::pin(async move {
                let known = sqlx::query("SELECT 1 FROM admin_tokens WHERE name = $1")
                    .bind(name.clone())
                    .fetch_optional(&mut *connection)
                    .await?;
                if known.is_some() {
                    return Ok(false);
                }
                insert_admin(connection, token, &name, role, now).await?;
                Ok(true)
            })
        })
        .await
    }

    /// Everybody who may or might call the admin port, by name, after one of them.
    pub async fn admins(&self, after: &str, limit: u32) -> Result<Vec<AdminRow>, StoreError> {
        let sql = "SELECT name, role, created_at, revoked_at FROM admin_tokens WHERE name > $1 ORDER BY name LIMIT $2";
        let rows =
            sqlx::query(sql).bind(after.to_owned()).bind(i64::from(limit)).fetch_all(&self.reader).await?;
        rows.iter().map(AdminRow::read).collect()
    }

    /// Somebody by name.
    pub async fn admin_named(&self, name: &str) -> Result<Option<AdminRow>, StoreError> {
        let sql = "SELECT name, role, created_at, revoked_at FROM admin_tokens WHERE name = $1";
        let row = sqlx::query(sql).bind(name.to_owned()).fetch_optional(&self.reader).await?;
        row.map(|row| AdminRow::read(&row)).transpose()
    }

    /// Revokes somebody, unless nobody of the greatest role would be left.
    pub async fn revoke_admin(
        &self,
        name: String,
        greatest: u8,
        now: Timestamp,
    ) -> Result<Revoked, StoreError> {
        let revoked = self.write(move |connection| {
            Box::pin(async move {
                let row = sqlx::query(
                    "SELECT role, revoked_at,
                            (SELECT count(*) FROM admin_tokens WHERE role = $2 AND revoked_at = 0) AS greatest
                     FROM admin_tokens WHERE name = $1",
                )
                .bind(name.clone())
                .bind(i64::from(greatest))
                .fetch_optional(&mut *connection)
                .await?;
                let Some(row) = row else { return Ok(Revoked::Unknown) };
                let is_greatest = row.try_get::<i64, _>("role")? == i64::from(greatest);
                let is_active = time(&row, "revoked_at")? == Timestamp::ZERO;
                if is_greatest && is_active && row.try_get::<i64, _>("greatest")? <= 1 {
                    return Ok(Revoked::IsLast);
                }
                sqlx::query("UPDATE admin_tokens SET revoked_at = $2 WHERE name = $1 AND revoked_at = 0")
                    .bind(name)
                    .bind(integer(now.as_millis()))
                    .execute(connection)
                    .await?;
                Ok(Revoked::Done)
            })
        });
        let revoked = revoked.await?;
        let mut known = self.admins.lock().unwrap_or_else(PoisonError::into_inner);
        known.revocations += 1;
        known.by_token.clear();
        Ok(revoked)
    }

    /// When this fleet was made from a backup; zero: it was not.
    pub async fn restored_at(&self) -> Result<Timestamp, StoreError> {
        let row = sqlx::query("SELECT restored_at FROM fleet").fetch_optional(&self.reader).await?;
        row.map_or(Ok(Timestamp::ZERO), |row| time(&row, "restored_at"))
    }

    /// Agents that were removed, here or on an earlier server.
    pub async fn removed_agents(&self) -> Result<Vec<AgentId>, StoreError> {
        let sql =
            "SELECT agent_id FROM agents WHERE removed_at > 0 UNION SELECT agent_id FROM removed_before";
        let rows = sqlx::query(sql).fetch_all(&self.reader).await?;
        rows.iter().map(|row| id(row, "agent_id", "agent id")).collect()
    }

    /// Whether an agent was removed on an earlier server.
    pub async fn was_removed_before(&self, agent: AgentId) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT 1 FROM removed_before WHERE agent_id = $1")
            .bind(agent.as_bytes().to_vec())
            .fetch_optional(&self.reader)
            .await?;
        Ok(row.is_some())
    }

    /// Records an agent that an earlier server of the fleet enrolled.
    pub async fn readmit(
        &self,
        record: IdentityRecord,
        envelope: Bytes,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(move |connection| {
            Box::pin(async move {
                let IdentityRecord { agent, public_key, name, realm, .. } = record;
                let nobody = Digest::from_bytes([0; 32]);
                let who = (agent, name, realm);
                insert_agent(connection, who, (public_key.spki(), nobody, envelope, String::new()), now).await
            })
        })
        .await
    }

    /// Spends one use of a token and records the agent, or finds what the same token and key got before.
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
         WHERE token_digest = $1 AND uses < max_uses AND expires_at > $2 AND revoked_at = 0 RETURNING realm",
    )
    .bind(token.as_bytes().as_slice())
    .bind(integer(now.as_millis()))
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = spent else { return Ok(TokenUse::Refused) };
    let realm: String = row.try_get("realm")?;
    note_same_name(connection, agent, &name, now).await?;
    let (who, shown) = ((agent, name, realm), (spki, token, identity_record.clone(), agent_version));
    insert_agent(connection, who, shown, now).await?;
    Ok(TokenUse::Admitted(identity_record))
}

/// Who enrols under a name that is taken is a host installed anew, or somebody who wants what is meant for
/// the other.
async fn note_same_name(
    connection: &mut SqliteConnection,
    agent: AgentId,
    name: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let sql = "SELECT agent_id FROM agents WHERE name = $1 AND removed_at = 0 ORDER BY agent_id LIMIT 1";
    let older = sqlx::query(sql).bind(name).fetch_optional(&mut *connection).await?;
    let Some(row) = older else { return Ok(()) };
    let older: AgentId = id(&row, "agent_id", "agent id")?;
    let detail = format!("{agent} enrolled under the name of {older}, which is still enrolled.");
    raise(connection, &Alarm { kind: AlertKind::SameName, code: "", agent, count: 1, detail }, now).await
}

async fn insert_agent(
    connection: &mut SqliteConnection,
    (agent, name, realm): (AgentId, String, String),
    (spki, token, identity_record, agent_version): (Vec<u8>, Digest, Bytes, String),
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO agents (agent_id, name, realm, public_key, token_digest, identity_record, enrolled_at, agent_version)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
    )
    .bind(agent.as_bytes().to_vec())
    .bind(name.clone())
    .bind(realm.clone())
    .bind(spki)
    .bind(token.as_bytes().to_vec())
    .bind(identity_record.to_vec())
    .bind(integer(now.as_millis()))
    .bind(agent_version)
    .execute(&mut *connection)
    .await?;
    put_attribute(connection, agent, "name".to_owned(), name, Source::Record).await?;
    put_attribute(connection, agent, "realm".to_owned(), realm, Source::Record).await
}

pub(super) async fn insert_admin(
    connection: &mut SqliteConnection,
    token: Digest,
    name: &str,
    role: u8,
    now: Timestamp,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO admin_tokens (token_digest, name, role, created_at) VALUES ($1, $2, $3, $4)";
    sqlx::query(sql)
        .bind(token.as_bytes().as_slice())
        .bind(name)
        .bind(i64::from(role))
        .bind(integer(now.as_millis()))
        .execute(connection)
        .await?;
    Ok(())
}
