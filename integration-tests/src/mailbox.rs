//! A mail server of the organisation's: Exim, over TLS from the first byte, for those who have its password.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use crate::daemon::until;
use crate::fleet::Fleet;
use crate::ports::free_port;
use crate::proxies::Proxy;
use crate::{python, sandbox};

/// Who may send, and the password.
pub const USER: &str = "writ";
/// The password.
pub const PASSWORD: &str = "s3cret-of-the-post";

/// What it has in no mail.
pub const UNWANTED: &str = "eicar";

/// It runs until it is dropped.
#[derive(Debug)]
pub struct MailServer {
    folder: PathBuf,
    port: u16,
    _server: Proxy,
}

impl MailServer {
    /// Starts one, in a folder of the fleet's. It takes mail for `ops.example` alone, and none that names
    /// [`UNWANTED`].
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(fleet: &Fleet) -> Self {
        let (folder, port) = (fleet.path("post"), free_port());
        fs::create_dir(&folder).unwrap();
        let [certificate, key] = sandbox::leaf(&folder);
        // Below a folder of root's its own user reads nothing.
        let place = tempfile::Builder::new().prefix("writ-post-").tempdir().unwrap().keep();
        fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        for name in ["spool", "log", "mail"] {
            fs::create_dir(place.join(name)).unwrap();
            chown(place.join(name), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        for (from, name) in [(&certificate, "cert.pem"), (&key, "key.pem")] {
            fs::copy(from, place.join(name)).unwrap();
            chown(place.join(name), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        // The package names a user that this machine does not have.
        for (name, line) in
            [("passwd", "Debian-exim:x:65534:65534::/:/bin/false\n"), ("group", "Debian-exim:x:65534:\n")]
        {
            let known = fs::read_to_string(Path::new("/etc").join(name)).unwrap();
            fs::write(place.join(name), format!("{known}{line}")).unwrap();
        }
        let exim = python::root().join("target/network/bin/exim4");
        let config = CONFIG
            .replace("@PLACE@", &place.display().to_string())
            .replace("@EXIM@", &exim.display().to_string())
            .replace("@PORT@", &port.to_string())
            .replace("@UNWANTED@", UNWANTED)
            .replace("@USER@", USER)
            .replace("@PASSWORD@", PASSWORD);
        fs::write(place.join("exim.conf"), config).unwrap();
        let shown = place.display();
        let script = format!(
            "mount --bind {shown}/passwd /etc/passwd && mount --bind {shown}/group /etc/group && exec {exim} -C {shown}/exim.conf -bdf",
            exim = exim.display()
        );
        let words = ["--mount", "sh", "-c", &script].map(str::to_owned);
        Self { _server: Proxy::of_program(port, "unshare", &words), folder: place, port }
    }

    /// What a server's configuration says so that it mails.
    #[must_use]
    pub fn config(&self, fleet: &Fleet, to: &str) -> String {
        let password = fleet.write_secret("post-password", &format!("{PASSWORD}\n"));
        format!(
            "[alerts.mail]\nserver = \"localhost:{}\"\nca = \"{}\"\nfrom = \"writ@acme.example\"\nto = [{to}]\nuser = \"{USER}\"\npassword_file = \"{}\"\nevery = \"1s\"\n",
            self.port,
            fleet.path("post/ca.pem").display(),
            password.display()
        )
    }

    /// Refuses every mail once it has read it, or no longer: as for a sender it does not know.
    ///
    /// # Panics
    /// When that cannot be told it.
    pub fn refuse_all(&self, does: bool) {
        let told = self.folder.join("refuses");
        if does { fs::write(told, "").unwrap() } else { fs::remove_file(told).unwrap() }
    }

    /// What came for the people of `ops.example`, as a mailbox holds it.
    #[must_use]
    pub fn mailbox(&self) -> String {
        fs::read_to_string(self.folder.join("mail/box")).unwrap_or_default()
    }

    /// Waits for a text in it; everything until then.
    pub fn wait_for(&self, text: &str) -> String {
        until(&format!("`{text}` is mailed"), || self.mailbox().contains(text));
        self.mailbox()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

const NOBODY: u32 = 65534;

const CONFIG: &str = "exim_path = @EXIM@
deliver_drop_privilege = true
spool_directory = @PLACE@/spool
log_file_path = @PLACE@/log/%slog
pid_file_path = @PLACE@/spool/pid
primary_hostname = localhost
daemon_smtp_ports = @PORT@
tls_on_connect_ports = @PORT@
local_interfaces = 127.0.0.1
tls_advertise_hosts = *
tls_certificate = @PLACE@/cert.pem
tls_privatekey = @PLACE@/key.pem
domainlist local_domains = ops.example
acl_smtp_rcpt = acl_rcpt
acl_smtp_data = acl_data
host_lookup =
rfc1413_hosts =
keep_environment =
begin acl
acl_rcpt:
  accept authenticated = *
         domains = +local_domains
  deny message = not for us
acl_data:
  deny message = sender not verified
       condition = ${if exists{@PLACE@/refuses}}
  deny message = it looks like a virus
       condition = ${if match{$message_body}{@UNWANTED@}}
  accept
begin routers
all:
  driver = accept
  transport = file
begin transports
file:
  driver = appendfile
  file = @PLACE@/mail/box
  user = Debian-exim
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${if and{{eq{$auth2}{@USER@}}{eq{$auth3}{@PASSWORD@}}}}
  server_set_id = $auth2
";
