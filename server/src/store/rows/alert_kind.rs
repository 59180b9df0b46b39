//! What alerts there are: a closed list with stable names.

use writ_protocol::refusal::RefusalCode;

macro_rules! alert_kinds {
    ($(#[doc = $meaning:literal] $kind:ident = $name:literal, $cure:literal;)*) => {
        /// What happened; `docs/alerts.md` is generated from this list.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum AlertKind {
            $(#[doc = $meaning] $kind,)*
        }

        impl AlertKind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// Its name in the database, outputs and metrics.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// What it means, in one sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$kind => $meaning,)* }
            }

            /// What an operator does about it.
            #[must_use]
            pub const fn cure(self) -> &'static str {
                match self { $(Self::$kind => $cure,)* }
            }
        }
    };
}

alert_kinds! {
    /// An agent refused something in silence.
    Refused = "refused", "Its code says what, and what to do: refusals.md.";
    /// An agent was handed a command more often than this server sent it.
    Replayed = "replayed", "Nothing was started again. Find out who is between this server and the agent, and who else has the key of the TLS certificate; `writ-server authority channel` makes a new one.";
    /// An agent answered one command in two different ways.
    Contradicted = "contradicted", "No honest agent does that; the first answer counts and both are kept. Take the host off the network and look who else is on it.";
    /// An agent answered a command it was never sent.
    Unsolicited = "unsolicited", "Explained if this server's database was put back to an earlier state. If it was not, somebody else signs with a key of this server: `writ-server cert revoke KEYID`.";
    /// An agent's session carried a receipt or a report that is not the agent's, or holds nonsense.
    NotBelieved = "not_believed", "It was not stored, and commands it was to answer stay open. Somebody between the two alters what the agent says, or the agent's program is not ours: compare `writ-agent --version` on the host with the package.";
    /// An agent dropped a receipt as acknowledged, and this server does not have it.
    Lost = "lost", "Explained if this server's database was put back to an earlier state. If it was not, somebody between the two forges acknowledgements: `writ-server authority channel` makes a new TLS key.";
    /// Somebody claimed an agent's id without its key.
    Impostor = "impostor", "They were turned away. The detail says from which address; that of a proxy, if one is in front. The agent itself is not concerned.";
    /// An agent's journal went back or forked; nothing is sent to it until an operator decides.
    Rewound = "rewound", "`writ why AGENT` says which it is. Turn a copy off, or enrol it anew; then `writ agents approve AGENT`.";
    /// An agent began a new journal.
    JournalReplaced = "journal_replaced", "Expected if somebody emptied its data directory. If nobody did, look at the disk of the host.";
    /// An agent enrolled under a name that another one has.
    SameName = "same_name", "If the host was installed anew: `writ agents approve NEW --replaces OLD` gives it the labels of the older one, which is removed. If not, find out who has a token: `writ enroll token list`. Until one is gone, commands to the name alone are refused.";
    /// A rollout stopped by itself: more agents failed than its plan bears.
    RolloutStopped = "rollout_stopped", "`writ commands show ID` tells who failed and how, `writ commands output ID AGENT` what was printed. Then `writ rollouts resume ID`, or `writ rollouts abort ID` and another command.";
    /// A scan found listed files on an agent, or it or an inventory met suspicious objects.
    Listed = "listed", "`writ commands show ID` tells which files, and what was done with them, and who talks to which suspicious address. If they are none of yours, take the host off the network. What was quarantined in error is put back by `writ send restore-quarantined`.";
    /// More objects act than agents hold.
    ObjectsLeftOut = "objects_left_out", "`writ objects list` has all. Remove your own that are of no use, or have the Control Manager say fewer: those of the least source are left out, first of a sandbox, then of files that were imported, then of the manager.";
    /// The web server that is told of alerts does not take them.
    NotTold = "not_told", "The detail says why. Every alert is in `writ alerts`; what was not told is told as soon as it can be. Mend the web server, or `alerts.webhook` in server.toml.";
    /// The mail server does not take alerts.
    NotMailed = "not_mailed", "The detail says why. Every alert is in `writ alerts`; what was not mailed is mailed as soon as it can be. Mend the mail server, or `alerts.mail` in server.toml.";
    /// A certificate of this server ends soon.
    CertificateEnds = "certificate_ends", "`writ-server doctor` says which, and what makes the next one.";
    /// The Control Manager refuses this server.
    ManagerRejects = "manager_rejects", "The detail says why; `writ manager status` how it stands now.";
    /// An update did not take place; the lists and components of before are in force still.
    UpdateFailed = "update_failed", "The code says why, and updates.md what to do. If it stays, lists grow old: `writ-server updates status` shows since when.";
    /// This server refused an instruction of its Control Manager, or of somebody who claims to be it.
    InstructionRefused = "instruction_refused", "Nothing was changed. Ask the Control Manager's operators whether it is theirs; if it is not, somebody claims to be the manager, or has its key.";
}

impl AlertKind {
    /// What to do about a stored alert; empty for one of another version.
    #[must_use]
    pub fn stored_cure(kind: &str, code: &str) -> &'static str {
        let refusal =
            RefusalCode::ALL.iter().find(|known| kind == Self::Refused.as_str() && known.as_str() == code);
        let kind = || Self::ALL.iter().find(|known| known.as_str() == kind);
        refusal.map(|known| known.cure()).or_else(|| kind().map(|known| known.cure())).unwrap_or_default()
    }
}
