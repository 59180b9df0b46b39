//! What an agent may say about itself for selectors. The names are a closed list, so that no agent can put itself under
//! an operator's label; the values are its own word and never decide about trust.

/// Every fact, in alphabetical order.
pub const FACTS: [&str; 7] =
    ["agent_version", "arch", "distribution", "distribution_version", "hostname", "kernel", "os"];

/// What the identity record says; selectors may look at it too.
pub const RECORD: [&str; 2] = ["name", "realm"];
