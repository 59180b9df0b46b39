//! Who may call the admin port: bearer tokens, of which only digests are kept.

use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};

use writ_common::admin::operators::{Caller, NewOperator, OperatorRow, OperatorStore, Revocation, Scope};
use writ_protocol::id::Digest;
use writ_protocol::time::Timestamp;

use crate::{Connection, Database, DatabaseError, KeepOrUndo, Record, ToValue as _, values};

/// Tokens that were looked up: as many as there are people and scripts that call.
#[derive(Debug, Default)]
pub(crate) struct Known {
    by_token: HashMap<Digest, Caller>,
    revocations: u64,
}

impl<J: Send + 'static> OperatorStore for Database<J> {
    /// Remembered until somebody is revoked.
    async fn operator(&self, token: Digest) -> Result<Option<Caller>, DatabaseError> {
        let revocations = {
            let known = self.known();
            if let Some(operator) = known.by_token.get(&token) {
                return Ok(Some(operator.clone()));
            }
            known.revocations
        };
        let sql = "SELECT * FROM admin_tokens WHERE token_digest = ?1 AND revoked_at = 0";
        let operator = self.read(move |connection| {
            connection.first(sql, &values![token], |record| {
                let OperatorRow { name, role, expires_at, scope, .. } = read(record)?;
                Ok(Caller { name, role, expires_at, scope })
            })
        });
        let operator = operator.await?;
        let mut known = self.known();
        // What was read before a revocation may be what was revoked.
        if let Some(operator) = operator.clone().filter(|_| known.revocations == revocations) {
            known.by_token.insert(token, operator);
        }
        Ok(operator)
    }

    async fn operators(&self, after: String, limit: u32) -> Result<Vec<OperatorRow>, DatabaseError> {
        let sql = "SELECT * FROM admin_tokens WHERE name > ?1 ORDER BY name LIMIT ?2";
        self.read(move |connection| connection.fetch(sql, &values![after, limit], read)).await
    }

    async fn create_operator(&self, new: NewOperator) -> Result<bool, DatabaseError> {
        self.write(move |connection| {
            if find(connection, &new.caller.name)?.is_some() {
                return Ok(false);
            }
            insert(connection, &new)?;
            Ok(true)
        })
        .await
    }

    async fn revoke_operator(
        &self,
        name: String,
        greatest: u8,
        now: Timestamp,
    ) -> Result<Revocation, DatabaseError> {
        let revoked = self.decide(move |connection| revoke(connection, &name, greatest, now)).await?;
        let mut known = self.known();
        known.revocations += 1;
        known.by_token.clear();
        Ok(revoked)
    }
}

impl<J> Database<J> {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.operators.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn revoke(
    connection: &mut Connection,
    name: &str,
    greatest: u8,
    now: Timestamp,
) -> Result<KeepOrUndo<Revocation>, DatabaseError> {
    let Some(row) = find(connection, name)? else { return Ok(KeepOrUndo::Undo(Revocation::Unknown)) };
    // One whose token ends is not left for long.
    let others = "SELECT count(*) AS others FROM admin_tokens
                  WHERE role = ?1 AND revoked_at = 0 AND expires_at = 0 AND name <> ?2";
    let others = connection.only(others, &values![greatest, name], |record| record.get("others"))?;
    let decision = Revocation::decide(row, greatest, others, now);
    if let Revocation::Done { row, is_new: true } = &decision {
        let sql = "UPDATE admin_tokens SET revoked_at = ?2 WHERE name = ?1";
        connection.execute(sql, &values![name, row.revoked_at])?;
    }
    Ok(KeepOrUndo::Keep(decision))
}

fn find(connection: &mut Connection, name: &str) -> Result<Option<OperatorRow>, DatabaseError> {
    connection.first("SELECT * FROM admin_tokens WHERE name = ?1", &values![name], read)
}

fn read(record: &Record<'_>) -> Result<OperatorRow, DatabaseError> {
    Ok(OperatorRow {
        name: record.get("name")?,
        role: record.get("role")?,
        created_at: record.get("created_at")?,
        revoked_at: record.get("revoked_at")?,
        expires_at: record.get("expires_at")?,
        scope: Scope { selector: record.get("selector")?, actions: record.get("actions")? },
    })
}

/// What limits tokens, as a step of a program's schema.
pub const TOKEN_LIMITS: &str = "
    ALTER TABLE admin_tokens ADD COLUMN expires_at INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE admin_tokens ADD COLUMN selector TEXT NOT NULL DEFAULT '';
    ALTER TABLE admin_tokens ADD COLUMN actions TEXT NOT NULL DEFAULT '';
";

/// Records somebody who may call, for ever and for everything.
///
/// # Errors
/// When the database fails, or the name or token is recorded already.
pub fn insert_operator(
    connection: &mut Connection,
    token: Digest,
    name: &str,
    role: u8,
    now: Timestamp,
) -> Result<(), DatabaseError> {
    let (expires_at, scope) = (Timestamp::ZERO, Scope::default());
    let caller = Caller { name: name.to_owned(), role, expires_at, scope };
    insert(connection, &NewOperator { token, caller, now })
}

fn insert(connection: &mut Connection, new: &NewOperator) -> Result<(), DatabaseError> {
    let NewOperator { token, caller: Caller { name, role, expires_at, scope }, now } = new;
    let Scope { selector, actions } = scope;
    let sql = "INSERT INTO admin_tokens (token_digest, name, role, created_at, expires_at, selector, actions)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    connection.execute(sql, &values![token, name, role, now, expires_at, selector, actions]).map(drop)
}
