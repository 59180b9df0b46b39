//! Enrolment: a token in, an identity out. It goes on where an interrupted one stopped, and never trusts
//! first use.

use writ_common::files::{self, FileError};
use writ_common::net::Proxy;
use writ_common::tls::{Anchors, connect_by};
use writ_proto::v1 as proto;
use writ_protocol::envelope::{EnrolmentPurpose, IdentityRecordPurpose, Sealed, sign};
use writ_protocol::identity::{Enrolment, EnrolmentToken, IdentityRecord};
use writ_protocol::keys::Algorithm;
use writ_protocol::refusal::Refusal;
use writ_protocol::trust::Keyring;

use super::greeting::fetch_pinned;
use super::{LinkError, gateway};
use crate::VERSION;
use crate::identity::{Files, Identity, IdentityError, key_or_new};
use crate::replay::{Journal, JournalError};
use crate::trust::Trust;

/// Why an agent was not enrolled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnrollError {
    /// It is already.
    #[error("this agent is {name} ({id}) already; to begin anew, remove {folder} first")]
    Already {
        /// Its name.
        name: String,
        /// Its id.
        id: String,
        /// Its data directory.
        folder: String,
    },
    /// The key cannot be read or made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Something cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The journal cannot be made.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// No endpoint of the token could be used.
    #[error("no server could be used: {}", .0.join("; "))]
    Endpoints(Vec<String>),
    /// The server's answer is not what the trust bundle allows.
    #[error("the server's answer is not believed: {0}")]
    NotBelieved(#[from] Refusal),
}

/// What an agent brings along.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewAgent<'a> {
    /// The name operators will see.
    pub name: &'a str,
    /// How it will sign, unless an interrupted enrolment has made the key already.
    pub algorithm: Algorithm,
    /// The proxy on the way to the server.
    pub proxy: Option<&'a Proxy>,
}

/// A new agent.
#[derive(Debug)]
pub(crate) struct Enrolled {
    /// What the server said.
    pub record: IdentityRecord,
    /// The newest trust bundle.
    pub bundle_version: u64,
}

/// Enrols this host.
///
/// # Errors
/// See [`EnrollError`]. Whatever fails, the same call with the same token may be made again.
pub(crate) async fn enroll(
    files: &Files,
    token: &EnrolmentToken,
    host: NewAgent<'_>,
) -> Result<Enrolled, EnrollError> {
    files::private_folder(files.folder())?;
    match Identity::load(files) {
        Ok(identity) => {
            return Err(EnrollError::Already {
                name: identity.record.name,
                id: identity.record.agent.to_string(),
                folder: files.folder().display().to_string(),
            });
        }
        Err(IdentityError::NotEnrolled(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let mut tried = Vec::new();
    for endpoint in &token.endpoints {
        match enroll_at(files, token, host, endpoint).await {
            Ok(enrolled) => return Ok(enrolled),
            Err(Attempt::Link(error)) => tried.push(format!("{endpoint}: {error}")),
            Err(Attempt::Final(error)) => return Err(error),
        }
    }
    Err(EnrollError::Endpoints(tried))
}

/// Whether another endpoint may do better.
enum Attempt {
    Link(LinkError),
    Final(EnrollError),
}

impl<E: Into<LinkError>> From<E> for Attempt {
    fn from(error: E) -> Self {
        Self::Link(error.into())
    }
}

async fn enroll_at(
    files: &Files,
    token: &EnrolmentToken,
    host: NewAgent<'_>,
    endpoint: &str,
) -> Result<Enrolled, Attempt> {
    let connection =
        connect_by(host.proxy, endpoint, &Anchors::SpkiDigests(token.tls_ca_spki_digests.clone())).await?;
    let mut client = gateway(connection.channel);
    let chain = fetch_pinned(&mut client, token.bundle_version, token.bundle_digest).await?;
    let (key, is_new) = key_or_new(files, host.algorithm).map_err(|error| Attempt::Final(error.into()))?;
    let journal = Journal::open(&files.journal(), u64::MAX).map_err(|error| Attempt::Final(error.into()))?;
    if is_new {
        journal.is_first().map_err(|error| Attempt::Final(error.into()))?;
    }
    writ_common::checkpoint!("identity_key_made");
    let enrolment = Enrolment {
        fleet: token.fleet,
        token_digest: token.digest(),
        public_key: key.public().clone(),
        host_name: host.name.to_owned(),
        agent_version: VERSION.to_owned(),
        tls_leaf_spki_digest: connection.leaf_spki_digest,
    };
    let sealed: Sealed<EnrolmentPurpose> = sign(&[&key.for_purpose()], &enrolment);
    let request = proto::EnrollRequest {
        token_secret: token.secret.to_vec().into(),
        enrolment: sealed.bytes().clone(),
    };
    let answer = client.enroll(request).await?.into_inner();

    // The record brings its own time, as a hello does.
    let keyring = Keyring::new(&chain.head().bundle, &token.realm);
    let record =
        keyring.verify_at::<IdentityRecordPurpose>(&answer.identity_record, |record| record.recorded_at);
    let record = record.map_err(|refusal| Attempt::Final(refusal.into()))?.into_document();
    let is_about_us =
        record.public_key == *key.public() && record.fleet == token.fleet && record.realm == token.realm;
    if !is_about_us {
        return Err(Attempt::Link(LinkError::Protocol("its identity record is about another agent")));
    }
    // Commands sent between now and the first session are then not too old.
    journal.be_born(record.recorded_at).map_err(|error| Attempt::Final(error.into()))?;
    // Trust before identity: an agent that is enrolled knows whom to obey.
    Trust::keep(files, &chain).map_err(|error| Attempt::Final(error.into()))?;
    writ_common::checkpoint!("trust_kept");
    Identity::keep_record(files, &answer.identity_record).map_err(|error| Attempt::Final(error.into()))?;
    Ok(Enrolled { record, bundle_version: chain.head().bundle.version })
}
