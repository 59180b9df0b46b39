//! What the store decides, without a database: each rule takes what is known and what is new, and says what
//! becomes of it.

pub(super) mod admission;
pub(super) mod clock;
pub(super) mod journal;
pub(super) mod receipt;
pub(crate) mod restore;
pub(crate) mod rollout;
