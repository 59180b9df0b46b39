//! Keys, typed by who holds them. What a key may sign is decided by [`crate::envelope::Purpose`].

pub mod certificate;
pub mod pem;
pub mod private;
pub mod public;
pub mod sealed;

pub use certificate::SigningCertificate;
pub use private::{PrivateKey, SigningKey};
pub use public::PublicKey;

/// Who holds a key. Closed: the four holders of design and protocol.md §1.3.
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
}
