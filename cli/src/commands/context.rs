//! `writ context`.

use std::path::{Path, PathBuf};

use serde::Serialize;
use writ_common::files;
use writ_common::keys::pem;
use writ_proto::admin::v1::GetSystemRequest;
use writ_proto::manager::v1::GetManagerRequest;

use crate::args::{Context as Verb, Format};
use crate::client::Client;
use crate::context::{Context, Contexts};
use crate::failure::Failure;
use crate::output::{self, Rows};

#[derive(Serialize)]
struct Row {
    name: String,
    current: bool,
    server: String,
    ca: PathBuf,
    token_file: PathBuf,
}

impl Rows for Row {
    const HEAD: &'static [&'static str] = &["", "NAME", "SERVER", "CA", "TOKEN FILE"];

    fn cells(&self) -> Vec<String> {
        let mark = if self.current { "*" } else { "" };
        let path = |path: &Path| path.display().to_string();
        vec![mark.to_owned(), self.name.clone(), self.server.clone(), path(&self.ca), path(&self.token_file)]
    }
}

pub(super) async fn run(format: Format, verb: Verb) -> Result<(), Failure> {
    let mut contexts = Contexts::load()?;
    match verb {
        Verb::Add { name, server, ca, token_file, untried } => {
            let local = |error: &dyn std::fmt::Display| Failure::local(error.to_string());
            let server = Context::place(&server).map_err(|failure| failure.about("--server"))?;
            let (ca, token_file) = (absolute(&ca)?, absolute(&token_file)?);
            // Said now rather than at the first call.
            let text = files::read(&ca).map_err(|error| local(&error))?;
            pem::certificates(&text).map_err(|error| Failure::local(format!("{}: {error}", ca.display())))?;
            files::secret_line(&token_file).map_err(|error| local(&error))?;
            let context = Context { server, ca, token_file };
            if !untried {
                try_out(&context).await.map_err(|failure| failure.about("not added (--untried adds it)"))?;
            }
            contexts.contexts.insert(name.clone(), context);
            contexts.current = name;
            contexts.save()?;
        }
        Verb::Use { name } => {
            contexts.choose(Some(&name))?;
            contexts.current = name;
            contexts.save()?;
        }
        Verb::Remove { name } => {
            contexts.choose(Some(&name))?;
            contexts.contexts.remove(&name);
            // No other is chosen for somebody: their next command would go elsewhere.
            if contexts.current == name {
                contexts.current.clear();
            }
            contexts.save()?;
        }
        Verb::List => {}
    }
    let current = contexts.current;
    let rows: Vec<_> = contexts
        .contexts
        .into_iter()
        .map(|(name, Context { server, ca, token_file })| Row {
            current: name == current,
            name,
            server,
            ca,
            token_file,
        })
        .collect();
    output::list(format, &rows, "No server is known. Add one: writ context add --help")
}

/// Whether the server answers, and knows the token.
async fn try_out(context: &Context) -> Result<(), Failure> {
    let client = Client::connect(context).await?;
    match client.system().get(GetSystemRequest {}).await {
        // A Control Manager, which knows no fleet.
        Err(status) if status.code() == tonic::Code::PermissionDenied => {
            client.manager().get(GetManagerRequest {}).await.map_err(|_| status)?;
            Ok(())
        }
        answered => Ok(answered.map(|_| ())?),
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    path.canonicalize().map_err(|error| Failure::local(format!("{}: {error}", path.display())))
}
