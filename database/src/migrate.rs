//! Bringing a file up to date, one step after the other, all of them or none.

use crate::{Connection, DatabaseError, ToValue as _, values};

/// One step. Its text never changes once it is released.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// Its number; they count from 1 without gaps.
    pub version: u32,
    /// What it brings.
    pub name: &'static str,
    /// Its statements.
    pub sql: &'static str,
}

/// Where the first builds noted their steps. A build that looks there must not find a file of a later one
/// current, so the table goes when its content moved.
const FIRST_LEDGER: &str = "_sqlx_migrations";

/// Takes the steps that are missing. A file that lacks none is only read: it opens on a full disk.
pub(crate) fn migrate(connection: &mut Connection, steps: &[Migration]) -> Result<(), DatabaseError> {
    if find_missing(connection, steps)?.is_some_and(<[_]>::is_empty) {
        return Ok(());
    }
    connection.begin()?;
    let done = take(connection, steps);
    match done {
        Ok(()) => connection.commit(),
        Err(error) => {
            // The error says why; none is open afterwards.
            let _ = connection.roll_back();
            Err(error)
        }
    }
}

fn take(connection: &mut Connection, steps: &[Migration]) -> Result<(), DatabaseError> {
    if !connection.has_table("schema_versions")? {
        connection.run("CREATE TABLE schema_versions (version BIGINT PRIMARY KEY, name TEXT NOT NULL)")?;
        if connection.has_table(FIRST_LEDGER)? {
            let sql = format!(
                "SELECT count(*) = 0 OR (min(version) = 1 AND max(version) = count(*) AND min(success) = 1) AS is_whole
                 FROM {FIRST_LEDGER}"
            );
            if connection.only::<u32>(&sql, &[], |record| record.get("is_whole"))? == 0 {
                let why =
                    format!("{FIRST_LEDGER} lists steps with gaps, or one that failed; put a copy back");
                return Err(DatabaseError::Migration(why));
            }
            let sql = format!(
                "INSERT INTO schema_versions SELECT version, description FROM {FIRST_LEDGER};
                 DROP TABLE {FIRST_LEDGER};"
            );
            connection.run(&sql)?;
        }
    }
    // Asked again: another process may have taken them meanwhile.
    for Migration { version, name, sql } in find_missing(connection, steps)?.unwrap_or(steps) {
        let failed = |error: DatabaseError| match error {
            DatabaseError::Failed { why, is_of_the_disk: false } => {
                DatabaseError::Migration(format!("step {version}, {name}: {why}"))
            }
            other => other,
        };
        connection.run(sql).map_err(failed)?;
        connection.execute("INSERT INTO schema_versions VALUES (?1, ?2)", &values![version, *name])?;
    }
    Ok(())
}

/// The steps a file lacks; `None`: it has no list of them yet.
fn find_missing<'s>(
    connection: &mut Connection,
    steps: &'s [Migration],
) -> Result<Option<&'s [Migration]>, DatabaseError> {
    if !connection.has_table("schema_versions")? {
        return Ok(None);
    }
    let sql = "SELECT coalesce(max(version), 0) AS newest FROM schema_versions";
    let found: u32 = connection.only(sql, &[], |record| record.get("newest"))?;
    let known = steps.last().map_or(0, |last| last.version);
    if found > known {
        return Err(DatabaseError::Newer { found, known });
    }
    let first = steps.iter().position(|step| step.version > found).unwrap_or(steps.len());
    Ok(steps.get(first..))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::Access;

    const STEPS: [Migration; 2] = [
        Migration { version: 1, name: "initial", sql: "CREATE TABLE things (name TEXT NOT NULL)" },
        Migration {
            version: 2,
            name: "more",
            sql: "ALTER TABLE things ADD COLUMN size BIGINT NOT NULL DEFAULT 7",
        },
    ];

    fn file() -> (tempfile::TempDir, Connection) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.db");
        std::fs::write(&path, "").unwrap();
        let connection = Connection::open(&path, Access::Write, "do something").unwrap();
        (folder, connection)
    }

    #[test]
    fn a_file_takes_the_steps_it_lacks_and_keeps_what_it_has() {
        let (_folder, mut connection) = file();
        migrate(&mut connection, &STEPS[..1]).unwrap();
        connection.run("INSERT INTO things VALUES ('one')").unwrap();
        migrate(&mut connection, &STEPS).unwrap();
        migrate(&mut connection, &STEPS).unwrap();
        let size: u64 = connection.only("SELECT size FROM things", &[], |record| record.get("size")).unwrap();
        assert_eq!(size, 7);
    }

    #[test]
    fn a_file_of_the_first_builds_goes_on_where_it_was_and_they_do_not_take_it_back() {
        let (_folder, mut connection) = file();
        connection
            .run(
                "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL,
                     installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL,
                     checksum BLOB NOT NULL, execution_time BIGINT NOT NULL);
                 INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                     VALUES (1, 'initial', TRUE, x'00', 5);
                 CREATE TABLE things (name TEXT NOT NULL); INSERT INTO things VALUES ('one');",
            )
            .unwrap();
        migrate(&mut connection, &STEPS).unwrap();
        let size: u64 = connection.only("SELECT size FROM things", &[], |record| record.get("size")).unwrap();
        assert_eq!(size, 7);
        assert!(!connection.has_table(FIRST_LEDGER).unwrap());
    }

    #[test]
    fn a_file_whose_first_steps_have_a_gap_is_left_alone_and_one_without_any_takes_all() {
        // Builds of before could end between making the list and the first step.
        let (_folder, mut connection) = file();
        connection
            .run("CREATE TABLE _sqlx_migrations (version BIGINT, description TEXT, success BOOLEAN)")
            .unwrap();
        migrate(&mut connection, &STEPS).unwrap();
        for (version, success) in [(2, 1), (1, 0)] {
            let (_folder, mut connection) = file();
            let sql = format!(
                "CREATE TABLE _sqlx_migrations (version BIGINT, description TEXT, success BOOLEAN);
                 INSERT INTO _sqlx_migrations VALUES ({version}, 'initial', {success});"
            );
            connection.run(&sql).unwrap();
            let error = migrate(&mut connection, &STEPS).unwrap_err();
            assert!(matches!(&error, DatabaseError::Migration(why) if why.contains("gaps")), "{error}");
            assert!(connection.has_table(FIRST_LEDGER).unwrap());
        }
    }

    #[test]
    fn a_file_of_a_later_build_is_left_alone() {
        let (_folder, mut connection) = file();
        migrate(&mut connection, &STEPS).unwrap();
        let error = migrate(&mut connection, &STEPS[..1]).unwrap_err();
        assert!(matches!(error, DatabaseError::Newer { found: 2, known: 1 }), "{error}");
    }

    #[test]
    fn a_step_that_fails_takes_the_others_with_it() {
        let (_folder, mut connection) = file();
        let wrong = [STEPS[0], Migration { sql: "ALTER TABLE nothing ADD COLUMN a TEXT", ..STEPS[1] }];
        let error = migrate(&mut connection, &wrong).unwrap_err();
        assert!(
            matches!(&error, DatabaseError::Migration(why) if why.starts_with("step 2, more: ")),
            "{error}"
        );
        assert!(!connection.has_table("things").unwrap());
        assert!(!connection.has_table("schema_versions").unwrap());
    }
}
