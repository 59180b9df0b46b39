//! Who may come in as an agent: enrolment tokens, of which only digests are kept.

use bytes::Bytes;
use writ_database::dialect::digests_like;
use writ_database::{Connection, KeepOrUndo, Record, ToValue as _, values};
use writ_protocol::id::{AgentId, Digest};
use writ_protocol::identity::IdentityRecord;
use writ_protocol::time::Timestamp;

use super::super::rows::{
    AgentAdmission, Alarm, AlertKind, AttributeSource, EnrolmentTokenRow, NewToken, TokenUse,
};
use super::super::rules::admission::{self, KnownKey, KnownToken};
use super::super::{Store, StoreError};
use super::agents::put_attribute;
use super::alerts::raise;

impl Store {
    /// Records an enrolment token.
    pub(crate) async fn create_enrolment_token(&self, new: NewToken) -> Result<(), StoreError> {
        let sql = "INSERT INTO enrolment_tokens (token_digest, realm, max_uses, expires_at, created_by)
                   VALUES (?1, ?2, ?3, ?4, ?5)";
        let write = move |connection: &mut Connection| {
            let NewToken { token, realm, uses, expires_at, created_by } = &new;
            connection.execute(sql, &values![token, realm, uses, expires_at, created_by]).map(drop)
        };
        self.database.write(write).await
    }

    /// The realm of a token that has not ended; spent ones included, for their own agents may ask again.
    pub(crate) async fn enrolment_realm(
        &self,
        token: Digest,
        now: Timestamp,
    ) -> Result<Option<String>, StoreError> {
        let known = self.database.read(move |connection| find_token(connection, token)).await?;
        Ok(known.filter(|known| known.is_open(now)).map(|known| known.realm))
    }

    /// Enrolment tokens before a place in the order of creation, latest first.
    pub(crate) async fn enrolment_tokens(
        &self,
        before: u64,
        limit: u32,
    ) -> Result<Vec<EnrolmentTokenRow>, StoreError> {
        let sql = "SELECT * FROM enrolment_tokens WHERE sequence < ?1 ORDER BY sequence DESC LIMIT ?2";
        self.database.read(move |connection| connection.fetch(sql, &values![before, limit], read)).await
    }

    /// Enrolment tokens whose digest begins with these hex digits, at most two.
    pub(crate) async fn enrolment_tokens_like(
        &self,
        prefix: &str,
    ) -> Result<Vec<EnrolmentTokenRow>, StoreError> {
        let Some((first, last)) = digests_like(prefix) else { return Ok(Vec::new()) };
        let sql = "SELECT * FROM enrolment_tokens WHERE token_digest BETWEEN ?1 AND ?2 LIMIT 2";
        self.database.read(move |connection| connection.fetch(sql, &values![first, last], read)).await
    }

    /// Nobody comes in with a token any more. Revoking twice is revoking once.
    pub(crate) async fn revoke_enrolment_token(
        &self,
        token: Digest,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let sql = "UPDATE enrolment_tokens SET revoked_at = ?2 WHERE token_digest = ?1 AND revoked_at = 0";
        self.database.write(move |connection| connection.execute(sql, &values![token, now]).map(drop)).await
    }

    /// Records an agent that an earlier server of the fleet enrolled.
    pub(crate) async fn readmit(
        &self,
        record: IdentityRecord,
        envelope: Bytes,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let write = move |connection: &mut _| {
            let IdentityRecord { agent, public_key, name, realm, .. } = record;
            let admission = AgentAdmission {
                agent,
                name,
                public_key,
                identity_record: envelope,
                // No token of this server: no key can show it.
                token: Digest::from_bytes([0; 32]),
                agent_version: String::new(),
                now,
            };
            insert_agent(connection, &admission, &realm)
        };
        self.database.write(write).await
    }

    /// Spends one use of a token and records the agent, or finds what the same token and key got before.
    pub(crate) async fn admit(&self, admission: AgentAdmission) -> Result<TokenUse, StoreError> {
        self.database.decide(move |connection| admit(connection, &admission)).await
    }
}

fn admit(
    connection: &mut Connection,
    admission: &AgentAdmission,
) -> Result<KeepOrUndo<TokenUse>, StoreError> {
    let AgentAdmission { agent, name, public_key, identity_record, token, now, .. } = admission;
    let sql = "SELECT identity_record, token_digest FROM agents WHERE public_key = ?1";
    let key = connection.first(sql, &values![public_key.spki()], |record| {
        Ok(KnownKey { identity_record: record.get("identity_record")?, token: record.get("token_digest")? })
    })?;
    let known = find_token(connection, *token)?;
    match admission::decide(key, *token, known, *now) {
        admission::Decision::Refused => Ok(KeepOrUndo::Undo(TokenUse::Refused)),
        admission::Decision::Again(record) => Ok(KeepOrUndo::Undo(TokenUse::Admitted(record))),
        admission::Decision::New { realm } => {
            let sql = "UPDATE enrolment_tokens SET uses = uses + 1 WHERE token_digest = ?1";
            connection.execute(sql, &values![token])?;
            note_same_name(connection, *agent, name, *now)?;
            insert_agent(connection, admission, &realm)?;
            Ok(KeepOrUndo::Keep(TokenUse::Admitted(identity_record.clone())))
        }
    }
}

fn find_token(connection: &mut Connection, token: Digest) -> Result<Option<KnownToken>, StoreError> {
    let sql = "SELECT * FROM enrolment_tokens WHERE token_digest = ?1";
    connection.first(sql, &values![token], |record| {
        Ok(KnownToken {
            realm: record.get("realm")?,
            uses: record.get("uses")?,
            max_uses: record.get("max_uses")?,
            expires_at: record.get("expires_at")?,
            revoked_at: record.get("revoked_at")?,
        })
    })
}

/// An agent that enrols under a name that is taken is a host installed anew, or somebody who wants what is
/// meant for the other.
fn note_same_name(
    connection: &mut Connection,
    agent: AgentId,
    name: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let sql = "SELECT agent_id FROM agents WHERE name = ?1 AND removed_at = 0 ORDER BY agent_id LIMIT 1";
    let older = connection.first(sql, &values![name], |record| record.get::<AgentId>("agent_id"))?;
    let Some(older) = older else { return Ok(()) };
    let detail = format!("{agent} enrolled under the name of {older}, which is still enrolled.");
    raise(connection, &Alarm { kind: AlertKind::SameName, code: "", agent, count: 1, detail }, now)
}

fn insert_agent(
    connection: &mut Connection,
    admission: &AgentAdmission,
    realm: &str,
) -> Result<(), StoreError> {
    let AgentAdmission { agent, name, public_key, identity_record, token, agent_version, now } = admission;
    let sql = "INSERT INTO agents
                   (agent_id, name, realm, public_key, token_digest, identity_record, enrolled_at, agent_version)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING";
    let spki = public_key.spki();
    let values = values![agent, name, realm, spki, token, identity_record, now, agent_version];
    connection.execute(sql, &values)?;
    put_attribute(connection, *agent, ("name", name), AttributeSource::Record)?;
    put_attribute(connection, *agent, ("realm", realm), AttributeSource::Record)
}

fn read(record: &Record<'_>) -> Result<EnrolmentTokenRow, StoreError> {
    Ok(EnrolmentTokenRow {
        sequence: record.get("sequence")?,
        token: record.get("token_digest")?,
        realm: record.get("realm")?,
        max_uses: record.get("max_uses")?,
        uses: record.get("uses")?,
        expires_at: record.get("expires_at")?,
        created_by: record.get("created_by")?,
        revoked_at: record.get("revoked_at")?,
    })
}
