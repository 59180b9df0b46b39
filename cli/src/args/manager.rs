//! The line from a server up to its Control Manager, and what operators of a manager type.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};

use super::{duration, parameter};

/// `writ manager`.
#[derive(Debug, Subcommand)]
pub(crate) enum Manager {
    /// How this server meets its Control Manager.
    #[command(subcommand)]
    Settings(Settings),
    /// Try the settings leg by leg, with the changes given here on top. Saves nothing and registers nothing.
    Test(Box<Changes>),
    /// Become one of the manager's entities, the servers that it lists and instructs. Twice is once.
    Register {
        /// Whether the manager becomes the update source of the integrated reputation server, if it offers
        /// itself; asked on a terminal unless given.
        #[arg(long, value_enum)]
        update_source: Option<UpdateSource>,
    },
    /// Send the manager what was changed since; if that fails, the settings of before stay in force.
    Update,
    /// Unregister and register by the saved settings; the entity keeps its id.
    ReRegister {
        /// As `register`; as it was unless given.
        #[arg(long, value_enum)]
        update_source: Option<UpdateSource>,
    },
    /// End the registration: here at once, at the manager as soon as it can be reached. The settings stay.
    Unregister,
    /// How this server stands with its manager, and what to do.
    Status,
    /// Where the integrated reputation server gets its updates from now on.
    UpdateSource {
        /// `default`: the update server that is configured.
        #[arg(value_enum)]
        source: UpdateSource,
    },
}

/// `writ manager settings`.
#[derive(Debug, Subcommand)]
pub(crate) enum Settings {
    /// As saved. Passwords and tokens are never shown.
    Show,
    /// Change some; what is left out stays. Nothing is sent to the manager: see `writ manager update`.
    Set(Box<Changes>),
}

/// Where updates come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum UpdateSource {
    /// The update server that is configured.
    Default,
    /// The Control Manager.
    Manager,
}

/// What a proxy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Proxy {
    /// No proxy.
    None,
    /// HTTP CONNECT.
    Http,
    /// SOCKS4, without a password.
    Socks4,
    /// SOCKS5.
    Socks5,
}

/// What is left out stays; an empty text clears it.
#[derive(Debug, Default, Args)]
pub(crate) struct Changes {
    /// What the manager lists; empty: the host's name and _WRIT.
    #[arg(long, value_name = "NAME")]
    pub(crate) display_name: Option<String>,
    /// The manager's host name, IPv4 or IPv6 address.
    #[arg(long, value_name = "HOST")]
    pub(crate) address: Option<String>,
    /// The manager's port; 7543 unless set.
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u32>,
    /// The CA certificate of the manager (control-manager-ca.pem) or of your organisation, PEM or DER; it is
    /// shown before it is saved. `none` removes it.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// How long the CA it replaces is still accepted.
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "ca")]
    pub(crate) ca_overlap: Option<Duration>,
    /// The SHA-256 of the CA was compared: save it without asking.
    #[arg(long)]
    pub(crate) yes: bool,
    /// User of the web server in front of the manager.
    #[arg(long, value_name = "USER")]
    pub(crate) web_user: Option<String>,
    /// File with its password; `-` asks on the terminal, `none` removes it.
    #[arg(long, value_name = "FILE")]
    pub(crate) web_password_file: Option<PathBuf>,
    /// What a proxy on the way speaks.
    #[arg(long, value_enum)]
    pub(crate) proxy: Option<Proxy>,
    /// The proxy's host name, IPv4 or IPv6 address.
    #[arg(long, value_name = "HOST")]
    pub(crate) proxy_address: Option<String>,
    /// The proxy's port.
    #[arg(long, value_name = "PORT")]
    pub(crate) proxy_port: Option<u32>,
    /// The proxy's user.
    #[arg(long, value_name = "USER")]
    pub(crate) proxy_user: Option<String>,
    /// File with the proxy's password; `-` asks on the terminal, `none` removes it.
    #[arg(long, value_name = "FILE")]
    pub(crate) proxy_password_file: Option<PathBuf>,
    /// Two-way: where the manager reaches this server's port 7545, perhaps by a port forwarding.
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "one_way")]
    pub(crate) two_way: Option<String>,
    /// One-way: this server polls, and nobody listens.
    #[arg(long)]
    pub(crate) one_way: bool,
    /// File with a registration token of the manager; without one its operator approves. `none` removes it.
    #[arg(long, value_name = "FILE")]
    pub(crate) registration_token_file: Option<PathBuf>,
    /// How often this server polls.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) heartbeat: Option<Duration>,
    /// Silence after which something is wrong with it: at least three heartbeats.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) abnormal_after: Option<Duration>,
    /// No TLS up to the manager: a listener in between reads along. Refused with passwords and tokens.
    #[arg(long, value_name = "true|false", alias = "clear-text-i-know-what-i-do")]
    pub(crate) clear_text_i_know_what_i_am_doing: Option<bool>,
    /// No CA: nobody says who answers, and what the manager says is not obeyed.
    #[arg(long, value_name = "true|false", alias = "without-authorization-i-know-what-i-do")]
    pub(crate) without_authorization_i_know_what_i_am_doing: Option<bool>,
}

/// `writ entities`: for the context of a Control Manager.
#[derive(Debug, Subcommand)]
pub(crate) enum Entities {
    /// All of them, by name.
    List,
    /// One.
    Show {
        /// Its id or unique name.
        entity: String,
    },
    /// Let one in that waits, or that was rejected.
    Approve {
        /// Its id or unique name.
        entity: String,
    },
    /// Nothing from it counts any more.
    Reject {
        /// Its id or unique name.
        entity: String,
    },
    /// Forget one.
    Remove {
        /// Its id or unique name.
        entity: String,
    },
    /// Make a registration token: who has it is let in without approval. It is shown once.
    Token {
        /// How many entities it lets in.
        #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
        uses: u32,
        /// How long it can be used.
        #[arg(long, default_value = "1d", value_parser = duration, value_name = "TIME")]
        expires: Duration,
        /// Write the token to this new file (mode 600) instead of printing it.
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
    },
    /// The key by which an entity fetches suspicious objects counts no more, and it is given no other.
    RevokeSubscription {
        /// Its id or unique name.
        entity: String,
    },
    /// An entity whose subscription was revoked may have one again, which it asks for by itself.
    AllowSubscription {
        /// Its id or unique name.
        entity: String,
    },
    /// The sandbox that the manager reads suspicious objects from, and what of it was not taken.
    Sandbox {
        /// Ask it now.
        #[arg(long)]
        sync: bool,
    },
    /// The manager about itself.
    Manager,
}

/// `writ instruct`: for the context of a Control Manager.
#[derive(Debug, Subcommand)]
pub(crate) enum Instruct {
    /// Have agents of entities answer.
    Ping {
        /// Which agents of each entity; all unless given.
        #[arg(long, value_name = "SELECTOR", default_value = "")]
        selector: String,
        #[command(flatten)]
        to: To,
    },
    /// Have agents of entities run an action of their own lists.
    Run {
        /// Its name.
        action: String,
        /// Its parameters.
        #[arg(value_name = "KEY=VALUE", value_parser = parameter)]
        parameters: Vec<(String, String)>,
        /// Which agents of each entity; all unless given.
        #[arg(long, value_name = "SELECTOR", default_value = "")]
        selector: String,
        #[command(flatten)]
        to: To,
    },
    /// Ask entities how they stand.
    Status {
        #[command(flatten)]
        to: To,
    },
    /// Change how entities are heard of.
    Communication {
        /// How often they poll.
        #[arg(long, value_name = "TIME", value_parser = duration)]
        heartbeat: Duration,
        /// Silence after which something is wrong: at least three heartbeats.
        #[arg(long, value_name = "TIME", value_parser = duration)]
        abnormal_after: Duration,
        #[command(flatten)]
        to: To,
    },
    /// Instructions and what became of them, latest first.
    List,
    /// One, entity by entity.
    Show {
        /// Its id.
        id: String,
    },
}

/// For which entities.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("whom").required(true).args(["entities", "all"]))]
pub(crate) struct To {
    /// An entity's id or unique name; repeat for several.
    #[arg(long = "entity", value_name = "ENTITY")]
    pub(crate) entities: Vec<String>,
    /// Every entity that was let in.
    #[arg(long)]
    pub(crate) all: bool,
    /// How long it may wait for its entity.
    #[arg(long, default_value = "1h", value_parser = duration, value_name = "TIME")]
    pub(crate) expires: Duration,
    /// An id of your making, a UUID: the same instruction asked twice is issued once.
    #[arg(long, value_name = "UUID")]
    pub(crate) id: Option<String>,
}
