//! What stands between a server and its manager in real networks: nginx, squid, microsocks, pproxy, on random
//! ports of the loopback.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::daemon::{command, until};
use crate::ports::free_port;
use crate::python;

/// A program of the system that listens on a port until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    folder: TempDir,
    /// Where it listens, on the loopback.
    pub port: u16,
}

/// The one user all of them know.
pub const USER: &str = "op";
/// The password they know.
pub const PASSWORD: &str = "s3cret-of-a-proxy";

impl Proxy {
    /// Starts a program in a folder of its own that its unprivileged user may read, and waits until it
    /// listens.
    fn start(folder: TempDir, port: u16, program: &str, arguments: &[String]) -> Self {
        Self::spawn(folder, port, command(Path::new(program)), arguments)
    }

    fn spawn(folder: TempDir, port: u16, mut spawned: Command, arguments: &[String]) -> Self {
        let log = fs::File::create(folder.path().join("said")).unwrap();
        let program = spawned.get_program().display().to_string();
        spawned.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child =
            spawned.spawn().unwrap_or_else(|error| panic!("{program}: {error}; make test installs it"));
        let proxy = Self { child, folder, port };
        until(&format!("{program} does not listen"), || TcpStream::connect(("127.0.0.1", port)).is_ok());
        proxy
    }

    /// A script of ours that listens, with the packages that `make` installed.
    pub(crate) fn of_python(port: u16, arguments: &[String]) -> Self {
        let (folder, mut spawned) = (Self::folder(), command(Path::new("python3")));
        python::with_packages(&mut spawned);
        Self::spawn(folder, port, spawned, arguments)
    }

    /// A program of the system that is started with all that it needs.
    pub(crate) fn of_program(port: u16, program: &str, arguments: &[String]) -> Self {
        Self::start(Self::folder(), port, program, arguments)
    }

    /// Everything it said.
    #[must_use]
    pub fn said(&self) -> String {
        let mut said = String::new();
        for entry in fs::read_dir(self.folder.path()).unwrap().map_while(Result::ok) {
            said.push_str(&fs::read_to_string(entry.path()).unwrap_or_default());
        }
        said
    }

    fn folder() -> TempDir {
        let folder = TempDir::with_prefix("writ-proxy-").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        folder
    }

    fn passwords(folder: &Path) -> PathBuf {
        let path = folder.join("htpasswd");
        let made = command(Path::new("htpasswd")).args(["-bc"]).arg(&path).args([USER, PASSWORD]).output();
        assert!(made.unwrap().status.success(), "htpasswd");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        path
    }

    /// nginx in front of a manager's port: TLS ends here. Upstream is the manager's port in clear text.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn nginx(certificate: &Path, key: &Path, upstream: u16, how: Nginx) -> Self {
        let (folder, port) = (Self::folder(), free_port());
        let place = folder.path().display().to_string();
        let passwords = Self::passwords(folder.path());
        let auth = if how.asks {
            format!("auth_basic manager; auth_basic_user_file {};", passwords.display())
        } else {
            String::new()
        };
        let config = format!(
            "daemon off; user root; worker_processes 1; pid {place}/pid; error_log {place}/err; events {{}}
http {{ access_log {place}/acc; client_body_temp_path {place}/b; proxy_temp_path {place}/p; fastcgi_temp_path {place}/f;
 uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;
 server {{ listen 127.0.0.1:{port} ssl http2; ssl_certificate {}; ssl_certificate_key {}; ssl_protocols {};
  location / {{ {auth} grpc_pass grpc://127.0.0.1:{upstream}; grpc_read_timeout 1h; grpc_send_timeout 1h; client_body_timeout 1h; }} }} }}",
            certificate.display(),
            key.display(),
            how.protocols,
        );
        let path = folder.path().join("nginx.conf");
        fs::write(&path, config).unwrap();
        Self::start(folder, port, "nginx", &["-c".to_owned(), path.display().to_string()])
    }

    /// nginx that holds files, as any web server does that holds a repository; with a certificate and its key
    /// over TLS.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn files(root: &Path, tls: Option<(&Path, &Path)>) -> Self {
        let (folder, port) = (Self::folder(), free_port());
        let place = folder.path().display().to_string();
        let (how, certificate) = match tls {
            Some((certificate, key)) => (
                " ssl",
                format!(
                    "ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.3;",
                    certificate.display(),
                    key.display()
                ),
            ),
            None => ("", String::new()),
        };
        let config = format!(
            "daemon off; user root; worker_processes 1; pid {place}/pid; error_log {place}/err; events {{}}
http {{ access_log {place}/acc; client_body_temp_path {place}/b; proxy_temp_path {place}/p; fastcgi_temp_path {place}/f;
 uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;
 server {{ listen 127.0.0.1:{port}{how}; {certificate} root {}; }} }}",
            root.display()
        );
        let path = folder.path().join("nginx.conf");
        fs::write(&path, config).unwrap();
        Self::start(folder, port, "nginx", &["-c".to_owned(), path.display().to_string()])
    }

    /// squid: HTTP CONNECT, with a password, to the loopback only.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn squid() -> Self {
        let (folder, port) = (Self::folder(), free_port());
        let place = folder.path().display().to_string();
        // squid's own helper lies below the repository, which squid's user may not be let into.
        let helper = folder.path().join("helper");
        let script = format!(
            "#!/bin/sh\nwhile read -r user password; do [ \"$user $password\" = '{USER} {PASSWORD}' ] && echo OK || echo ERR; done\n"
        );
        fs::write(&helper, script).unwrap();
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
        let config = format!(
            "http_port 127.0.0.1:{port}
pid_filename {place}/pid
cache_log {place}/cache.log
access_log stdio:{place}/access.log
cache deny all
coredump_dir {place}
shutdown_lifetime 1 seconds
pinger_enable off
mime_table {place}/mime.conf
icon_directory {place}
unlinkd_program {place}/helper
max_filedescriptors 4096
cache_effective_user proxy
auth_param basic program {}
auth_param basic realm proxy
acl authed proxy_auth REQUIRED
acl ok_dst dst 127.0.0.1/32 ::1/128
http_access deny !ok_dst
http_access allow authed
http_access deny all
",
            helper.display()
        );
        // What a package installs for all squids of a host: this one guesses no types, shows no icons, and
        // has no cache to unlink.
        fs::write(folder.path().join("mime.conf"), "").unwrap();
        let path = folder.path().join("squid.conf");
        fs::write(&path, config).unwrap();
        let owned = command(Path::new("chown")).args(["-R", "proxy"]).arg(folder.path()).status();
        assert!(owned.unwrap().success(), "chown");
        let name = format!("writ{port}");
        let arguments = ["-N", "-n", &name, "-f", path.to_str().unwrap()].map(str::to_owned);
        Self::start(folder, port, "squid", &arguments)
    }

    /// microsocks: SOCKS5, with a password.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn microsocks() -> Self {
        let (folder, port) = (Self::folder(), free_port());
        let port_text = port.to_string();
        let arguments = ["-i", "127.0.0.1", "-p", &port_text, "-u", USER, "-P", PASSWORD].map(str::to_owned);
        Self::start(folder, port, "microsocks", &arguments)
    }

    /// pproxy: SOCKS4, without a password.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn socks4() -> Self {
        let (folder, port) = (Self::folder(), free_port());
        let module = python::root().join("target/python/pproxy");
        assert!(module.is_dir(), "{} is missing; run the tests with: make test", module.display());
        let script = "import sys; sys.path.insert(0, sys.argv[1]); sys.argv[1:] = ['-l', sys.argv[2]]; import pproxy.server; pproxy.server.main()";
        let packages = module.parent().unwrap().display().to_string();
        let listens = format!("socks4://127.0.0.1:{port}");
        let arguments = ["-c", script, &packages, &listens].map(str::to_owned);
        Self::start(folder, port, "python3", &arguments)
    }
}

/// How nginx stands there.
#[derive(Debug, Clone, Copy)]
pub struct Nginx {
    /// It asks for a user and a password.
    pub asks: bool,
    /// What it speaks.
    pub protocols: &'static str,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the proxy said:\n{}", self.said());
        }
        // SIGTERM, so that it ends its children too.
        let _ = command(Path::new("/bin/kill")).arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}
