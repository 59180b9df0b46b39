//! Who may call the admin port.

use sqlx::sqlite::SqliteRow;
use sqlx::{Connection as _, Row as _, SqliteConnection};
use writ_common::id::Digest;
use writ_common::time::Timestamp;

use super::{Store, StoreError, integer, time, unsigned};

/// Somebody who may call the admin port, or might once.
#[derive(Debug, Clone)]
pub struct OperatorRow {
    /// The name.
    pub name: String,
    /// As stored.
    pub role: u8,
    /// When.
    pub created_at: Timestamp,
    /// Zero: not.
    pub revoked_at: Timestamp,
}

impl OperatorRow {
    fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        Ok(Self {
            name: row.try_get("name")?,
            role: u8::try_from(unsigned(row, "role")?).unwrap_or_default(),
            created_at: time(row, "created_at")?,
            revoked_at: time(row, "revoked_at")?,
        })
    }
}

/// What became of a revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revoked {
    /// Nobody is called so.
    Unknown,
    /// Nobody of the greatest role would be left.
    IsLast,
    /// The token counts no more.
    Done,
}

impl Store {
    /// Name and role of a token that counts.
    pub async fn operator(&self, token: Digest) -> Result<Option<(String, u8)>, StoreError> {
        let sql = "SELECT * FROM admin_tokens WHERE token_digest = $1 AND revoked_at = 0";
        let row = sqlx::query(sql).bind(token.as_bytes().as_slice()).fetch_optional(&self.reader).await?;
        row.map(|row| OperatorRow::read(&row).map(|row| (row.name, row.role))).transpose()
    }

    /// Everybody who may or might call, by name, after one of them.
    pub async fn operators(&self, after: &str, limit: u32) -> Result<Vec<OperatorRow>, StoreError> {
        let sql = "SELECT * FROM admin_tokens WHERE name > $1 ORDER BY name LIMIT $2";
        let rows =
            sqlx::query(sql).bind(after.to_owned()).bind(i64::from(limit)).fetch_all(&self.reader).await?;
        rows.iter().map(OperatorRow::read).collect()
    }

    /// Records somebody; `false` when the name was given before.
    pub async fn create_operator(
        &self,
        token: Digest,
        name: &str,
        role: u8,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut writer = self.writer.lock().await;
        let mut change = writer.begin().await?;
        let known = sqlx::query("SELECT 1 FROM admin_tokens WHERE name = $1").bind(name.to_owned());
        if known.fetch_optional(&mut *change).await?.is_some() {
            return Ok(false);
        }
        insert(&mut change, token, name, role, now).await?;
        change.commit().await?;
        Ok(true)
    }

    /// Revokes somebody, unless nobody of the greatest role would be left.
    pub async fn revoke_operator(
        &self,
        name: &str,
        greatest: u8,
        now: Timestamp,
    ) -> Result<(Revoked, Option<OperatorRow>), StoreError> {
        let mut writer = self.writer.lock().await;
        let mut change = writer.begin().await?;
        let named = || sqlx::query("SELECT * FROM admin_tokens WHERE name = $1").bind(name.to_owned());
        let Some(row) = named().fetch_optional(&mut *change).await? else {
            return Ok((Revoked::Unknown, None));
        };
        let row = OperatorRow::read(&row)?;
        let others = sqlx::query(
            "SELECT count(*) AS others FROM admin_tokens WHERE role = $1 AND revoked_at = 0 AND name <> $2",
        );
        let others = others.bind(i64::from(greatest)).bind(name.to_owned()).fetch_one(&mut *change).await?;
        if row.role == greatest && row.revoked_at == Timestamp::ZERO && unsigned(&others, "others")? == 0 {
            return Ok((Revoked::IsLast, None));
        }
        sqlx::query("UPDATE admin_tokens SET revoked_at = $2 WHERE name = $1 AND revoked_at = 0")
            .bind(name.to_owned())
            .bind(integer(now.as_millis()))
            .execute(&mut *change)
            .await?;
        let row = named().fetch_one(&mut *change).await?;
        let row = OperatorRow::read(&row)?;
        change.commit().await?;
        Ok((Revoked::Done, Some(row)))
    }
}

pub(super) async fn insert(
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
