//! Which agents would not obey the key that signs now, and why.

use writ_protocol::id::{Digest, KeyId};
use writ_protocol::refusal::RefusalCode;
use writ_protocol::time::Timestamp;
use writ_protocol::trust::{Chain, Keyring};

use crate::context::Server;
use crate::store::{Behind, Holders, StoreError};

/// Agents of one realm that hold one bundle, judged.
#[derive(Debug)]
pub(crate) struct Holding {
    /// Who.
    pub holders: Holders,
    /// Whether it is the newest bundle.
    pub is_newest: bool,
    /// Whether this server has that bundle; true for those who have not said.
    pub is_known: bool,
    /// Why they refuse the key that signs now; `None`: they obey.
    pub refusal: Option<RefusalCode>,
}

/// How far the fleet has followed.
///
/// # Errors
/// When the store fails.
pub(crate) async fn holdings(server: &Server) -> Result<Vec<Holding>, StoreError> {
    let (chain, now) = (server.chain(), server.clock.wall());
    let signing = server.signer.entry().map(|entry| entry.certificate.key().id());
    let judge = |holders: Holders| Holding {
        is_newest: holders.digest == Some(chain.head().digest),
        is_known: holders.digest.is_none_or(|digest| chain.contains(digest)),
        refusal: refusal(&chain, holders.digest, &holders.realm, signing, now),
        holders,
    };
    Ok(server.store.bundle_holders().await?.into_iter().map(judge).collect())
}

/// What an agent that does not hold the newest bundle obeys.
#[derive(Debug)]
pub(crate) struct Mismatch {
    /// The agent.
    pub agent: Behind,
    /// The newest key of its bundle that counts now; `None` when none does, or the bundle is unknown here.
    pub obeys: Option<KeyId>,
    /// Why it refuses the key that signs now; `None` when it accepts that one, and is merely behind.
    pub refusal: Option<RefusalCode>,
}

impl Mismatch {
    /// Judges one agent.
    #[must_use]
    pub(crate) fn of(agent: Behind, chain: &Chain, signing: Option<KeyId>, now: Timestamp) -> Self {
        let link = chain.links().iter().find(|link| Some(link.digest) == agent.digest);
        let obeys = link.and_then(|link| {
            let candidates = Keyring::new(&link.bundle, &agent.realm).candidates(now);
            let mut counting = candidates.iter().filter(|candidate| candidate.standing.is_ok());
            counting.next_back().map(|candidate| candidate.key.id())
        });
        let refusal = refusal(chain, agent.digest, &agent.realm, signing, now);
        Self { agent, obeys, refusal }
    }

    /// For people.
    #[must_use]
    pub(crate) fn reason(&self) -> String {
        self.refusal.map_or_else(|| "behind, obeys all the same".to_owned(), |code| code.to_string())
    }
}

/// Why an agent of a realm that holds a bundle refuses a key; `None` when it accepts it.
#[must_use]
pub(crate) fn refusal(
    chain: &Chain,
    held: Option<Digest>,
    realm: &str,
    key: Option<KeyId>,
    now: Timestamp,
) -> Option<RefusalCode> {
    let link = chain.links().iter().find(|link| Some(link.digest) == held);
    // What it holds is not known here: nobody can say that it obeys.
    let (Some(link), Some(key)) = (link, key) else { return Some(RefusalCode::UnknownKey) };
    let candidates = Keyring::new(&link.bundle, realm).candidates(now);
    let standing = candidates.iter().find(|candidate| candidate.key.id() == key);
    standing.map_or(Some(RefusalCode::UnknownKey), |candidate| candidate.standing.err())
}
