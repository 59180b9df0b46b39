//! Keys, typed by who holds them. What a key may sign is decided by [`crate::envelope::Purpose`].

pub mod certificate;
pub mod der;
pub mod private;
pub mod public;

pub use certificate::SigningCertificate;
pub use private::{PrivateKey, SigningKey};
pub use public::PublicKey;

/// How a key signs. Both through ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// RFC 8032. The default: fast, and its signatures have one form.
    #[default]
    Ed25519,
    /// ECDSA on P-256 with SHA-256 (FIPS 186-4), where it is prescribed.
    P256,
}

impl Algorithm {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ed25519, Self::P256];

    /// Its name on command lines and in outputs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::P256 => "ecdsa-p256",
        }
    }
}

impl std::str::FromStr for Algorithm {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == text);
        known.ok_or_else(|| format!("`{text}` is no algorithm we use; write ed25519 or ecdsa-p256"))
    }
}

/// Who holds a key. Closed: the four holders of protocol.md §1.3, and the two of docs/control-manager.md.
pub trait Holder: private::Sealed + Send + Sync + 'static {
    /// For messages.
    const NAME: &'static str;
}

macro_rules! holders {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy)]
            pub enum $name {}
            impl private::Sealed for $name {}
            impl Holder for $name { const NAME: &'static str = $text; }
        )*
    };
}

holders! {
    /// m-of-n keys that sign trust bundles and are meant to live offline.
    Authority = "authority";
    /// The key of a signing certificate, on a server.
    Server = "signing";
    /// An agent's identity, made on the agent.
    Agent = "agent identity";
    /// An operator's, for approvals.
    Operator = "operator";
    /// A server's, towards its Control Manager.
    Entity = "entity";
    /// A Control Manager's, under its CA.
    Manager = "manager";
}
