//! Telling people by mail (`alerts.mail`): what is new since the last mail is in one mail.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, UNIX_EPOCH};

use lettre::message::{Mailbox, MessageBuilder, SinglePart};
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, AsyncTokioStream};
use lettre::transport::smtp::commands::{Data, Mail as Mail5321, Rcpt};
use lettre::transport::smtp::extension::ClientId;
use lettre::{Address, Message};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::client::TlsStream;
use tracing::warn;
use writ_common::tls::{Anchors, connect_mail};
use writ_common::{files, text, web};
use writ_protocol::place::Place;
use writ_protocol::time::Timestamp;
use zeroize::Zeroizing;

use super::{Untold, authorities};
use crate::context::Server;
use crate::store::{AlertKind, AlertRow, AlertState, SERVER};

/// How long a mail server may take until it wants a mail.
const ASKS_WITHIN: Duration = Duration::from_secs(60);
/// How long it may take for the mail then: one that it takes and does not answer would come again, and some
/// look for viruses first (RFC 5321 §4.5.3.2.6).
const TAKES_WITHIN: Duration = Duration::from_secs(600);
/// How long it may take to say goodbye.
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);
/// Bytes that a mail server says of one mail, at most.
const MAX_SAID_BYTES: usize = 1 << 20;
/// Bytes of a subject: RFC 5322 §2.1.1 has lines of 78.
const MAX_SUBJECT: usize = 70;

/// To whom alerts are mailed, and by whom.
#[derive(Debug, Clone)]
pub(crate) struct MailSettings {
    /// The mail server, which speaks TLS from the first byte.
    pub server: Place,
    /// Who vouches for it; `None`: those that this host trusts.
    pub ca: Option<PathBuf>,
    /// From whom a mail is.
    pub from: Address,
    /// To whom.
    pub to: Vec<Address>,
    /// Who this server is to the mail server, and a file with its password.
    pub user: Option<(String, PathBuf)>,
    /// From one mail to the next at the least.
    pub every: Duration,
}

/// People who are told.
#[derive(Debug)]
pub(crate) struct Mail {
    settings: MailSettings,
    anchors: Anchors,
    password: Option<Zeroizing<String>>,
    /// What was sent last.
    sent: Mutex<Vec<(u64, AlertState, Timestamp)>>,
}

impl Mail {
    /// Reads what the settings name.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn open(settings: &MailSettings) -> Result<Self, String> {
        let given = settings.ca.as_deref().map(authorities).transpose()?;
        let anchors = Anchors::Authorities(given.map_or_else(web::of_this_host, Ok)?);
        let password = settings.user.as_ref().map(|(_, file)| files::secret_line(file));
        let password = password.transpose().map_err(|error| error.to_string())?;
        Ok(Self { settings: settings.clone(), anchors, password, sent: Mutex::default() })
    }

    /// From one mail to the next at the least.
    pub(super) const fn every(&self) -> Duration {
        self.settings.every
    }

    /// Tells all of these in one mail. The same ones are not sent twice, when what was told cannot be noted.
    pub(super) async fn tell(&self, server: &Server, alerts: &[AlertRow]) -> Result<(), Untold> {
        let these: Vec<_> = alerts.iter().map(|alert| (alert.id, alert.state(), alert.last_at)).collect();
        let mut sent = self.sent.lock().await;
        if *sent == these {
            return Ok(());
        }
        let chain = server.chain();
        let now = server.clock.wall();
        let fleet = &chain.head().bundle.fleet_name;
        let whole = self.write((subject(fleet, alerts), body(alerts)), now).map_err(Untold::Ours)?;
        if let Some(refused) = self.send(&whole).await.map_err(Untold::Theirs)? {
            // What agents say may be the reason, or this server: a mail without their words tells which.
            warn!(
                why = refused,
                "the mail server will not have these alerts; their numbers are mailed alone"
            );
            let (subject, body) = (format!("[{fleet}] alerts: {}", alerts.len()), numbers(alerts));
            let bare = self.write((text::plain(&subject), body), now).map_err(Untold::Ours)?;
            if let Some(refused) = self.send(&bare).await.map_err(Untold::Theirs)? {
                return Err(Untold::Theirs(refused));
            }
        }
        *sent = these;
        Ok(())
    }

    fn write(&self, (subject, body): (String, String), now: Timestamp) -> Result<Message, String> {
        let MailSettings { from, to, .. } = &self.settings;
        let mut builder: MessageBuilder =
            Message::builder().from(Mailbox::new(Some("Writ".to_owned()), from.clone()));
        for address in to {
            builder = builder.to(Mailbox::new(None, address.clone()));
        }
        let builder = builder.subject(subject).message_id(None);
        let builder = builder.date(UNIX_EPOCH + Duration::from_millis(now.as_millis()));
        // Answers of machines, such as "I am away", are not wanted (RFC 3834 §5).
        let builder = builder.header(AutoSubmitted);
        builder.singlepart(SinglePart::plain(body)).map_err(|error| error.to_string())
    }

    /// Sends one; why it is refused for good after it was read, if it is.
    async fn send(&self, message: &Message) -> Result<Option<String>, String> {
        let mut connection = self.within(ASKS_WITHIN, Box::pin(self.ask())).await?;
        let taking = async { Ok(connection.message(&message.formatted()).await) };
        let refused = match self.within(TAKES_WITHIN, taking).await? {
            Err(error) if error.is_permanent() => Some(self.failed(&error)),
            taken => taken.map(|_| None).map_err(|error| self.failed(&error))?,
        };
        // It has said what counts.
        let _ = tokio::time::timeout(GOODBYE_WITHIN, connection.quit()).await;
        Ok(refused)
    }

    async fn within<T>(
        &self,
        time: Duration,
        work: impl Future<Output = Result<T, String>>,
    ) -> Result<T, String> {
        let done = tokio::time::timeout(time, work).await;
        done.map_err(|_| format!("{} did not take the mail within {time:?}", self.settings.server)).flatten()
    }

    /// In words. What the mail server says is a stranger's.
    fn failed(&self, error: &lettre::transport::smtp::Error) -> String {
        let cause = std::error::Error::source(error).map_or_else(String::new, |cause| format!(": {cause}"));
        text::quoted(&format!("{}: {error}{cause}", self.settings.server))
    }

    /// Until the mail server wants a mail.
    async fn ask(&self) -> Result<AsyncSmtpConnection, String> {
        let MailSettings { server, from, to, user, .. } = &self.settings;
        let stream = connect_mail(server, &self.anchors).await.map_err(|error| error.to_string())?;
        let peer = stream.get_ref().0.peer_addr().map_err(|error| error.to_string())?;
        let failed = |error: lettre::transport::smtp::Error| self.failed(&error);
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let stream = Box::new(Stream { stream, peer, left: MAX_SAID_BYTES });
        let mut connection = AsyncSmtpConnection::connect_with_transport(stream, &ClientId::Domain(host))
            .await
            .map_err(failed)?;
        if let (Some((user, _)), Some(password)) = (user, &self.password) {
            let credentials = Credentials::new(user.clone(), password.trim().to_owned());
            let ways = [Mechanism::Plain, Mechanism::Login];
            connection.auth(&ways, &credentials).await.map_err(failed)?;
        }
        connection.command(Mail5321::new(Some(from.clone()), Vec::new())).await.map_err(failed)?;
        let mut refused = Vec::new();
        for address in to {
            // One who has left keeps nobody else from hearing.
            if let Err(error) = connection.command(Rcpt::new(address.clone(), Vec::new())).await {
                let is_answer = error.is_permanent() || error.is_transient();
                if !is_answer {
                    return Err(failed(error));
                }
                refused.push(failed(error));
            }
        }
        if refused.len() == to.len() {
            return Err(refused.swap_remove(0));
        }
        for why in refused {
            warn!(why, "an address of alerts.mail.to is refused; the others are told");
        }
        connection.command(Data).await.map_err(failed)?;
        Ok(connection)
    }
}

fn subject(fleet: &str, alerts: &[AlertRow]) -> String {
    let said = match alerts {
        [only] => format!("{} {}{}", only.kind, only.state().as_str(), about(only)),
        several => {
            let mut kinds: Vec<_> = several.iter().map(|alert| alert.kind.as_str()).collect();
            kinds.sort_unstable();
            kinds.dedup();
            format!("{} alerts: {}", several.len(), kinds.join(", "))
        }
    };
    let whole = text::plain(&format!("[{fleet}] {said}"));
    let cut: String = whole.chars().take(MAX_SUBJECT).collect();
    if cut.len() < whole.len() { format!("{cut}…") } else { cut }
}

fn about(alert: &AlertRow) -> String {
    if alert.agent == SERVER { String::new() } else { format!(": {}", alert.agent_name) }
}

fn body(alerts: &[AlertRow]) -> String {
    let mut said = String::new();
    for alert in alerts {
        let AlertRow { id, kind, code, count, first_at, last_at, detail, .. } = alert;
        let about = if alert.agent == SERVER { "this server" } else { alert.agent_name.as_str() };
        let code = if code.is_empty() { String::new() } else { format!(" {code}") };
        let _ = writeln!(said, "{kind}{code}, {}", alert.state().as_str());
        let _ = writeln!(said, "  alert   {id}");
        let _ = writeln!(said, "  about   {}", text::plain(about));
        let _ = writeln!(said, "  since   {first_at}, {count} times, the last at {last_at}");
        let _ = writeln!(said, "  what    {}", text::plain(detail));
        let _ = writeln!(said, "  next    {}\n", AlertKind::stored_cure(kind, code.trim()));
    }
    said.push_str("All of them: writ alerts");
    said
}

/// What of alerts nobody but this server has written.
fn numbers(alerts: &[AlertRow]) -> String {
    let mut said = "The mail server does not take what is in these alerts:\n\n".to_owned();
    for AlertRow { id, kind, .. } in alerts {
        let _ = writeln!(said, "  alert   {id}, {kind}");
    }
    said.push_str("\nAll of them: writ alerts");
    said
}

/// The field of RFC 3834 §5.
#[derive(Debug, Clone)]
struct AutoSubmitted;

impl lettre::message::header::Header for AutoSubmitted {
    fn name() -> lettre::message::header::HeaderName {
        lettre::message::header::HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> lettre::message::header::HeaderValue {
        lettre::message::header::HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

/// A verified stream, as the library takes it.
#[derive(Debug)]
struct Stream {
    stream: TlsStream<TcpStream>,
    peer: SocketAddr,
    /// Bytes that the mail server may still say.
    left: usize,
}

impl AsyncTokioStream for Stream {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = std::task::ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        match self.left.checked_sub(buffer.filled().len() - before) {
            Some(left) => self.left = left,
            None => return Poll::Ready(Err(io::Error::other("the mail server says too much"))),
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
