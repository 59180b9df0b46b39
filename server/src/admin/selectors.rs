//! `SelectorService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use tracing::info;
use writ_common::admin::Effect;
use writ_common::status::Failure;
use writ_proto::admin::v1::selector_service_server::SelectorService;
use writ_proto::admin::v1::{
    DeleteSelectorRequest, DeleteSelectorResponse, ListSelectorsRequest, ListSelectorsResponse,
    SaveSelectorRequest, SavedSelector as Shown,
};

use crate::choose;
use crate::context::Server;
use crate::selector::is_name;
use crate::store::{MAX_SAVED_SELECTORS, SavedSelector, unavailable};

#[derive(Debug)]
pub(super) struct Selectors(pub(super) Arc<Server>);

#[tonic::async_trait]
impl SelectorService for Selectors {
    async fn save(&self, request: Request<SaveSelectorRequest>) -> Result<Response<Shown>, Status> {
        let actor = writ_common::admin::actor(&request)?;
        let SaveSelectorRequest { name, selector } = request.into_inner();
        let name = name.trim_start_matches('@').to_owned();
        if !is_name(&name) {
            let text = "begin with a letter or digit, then also `-`, `_`, `.` and `/`, 128 in all";
            return Err(Failure::invalid("name", text).into());
        }
        let selector = choose::parse(&selector)?;
        if !selector.saved().is_empty() {
            return Err(Failure::invalid("selector", "a saved selector cannot name another one").into());
        }
        let saved = SavedSelector {
            name,
            selector: selector.to_string(),
            saved_by: actor.name.clone(),
            saved_at: self.0.clock.wall(),
        };
        let before = self.0.store.saved_selector(&saved.name).await.map_err(unavailable)?;
        let replaced = match before {
            Some(same) if same.selector == saved.selector => {
                let agents = self.count(&same).await?;
                return Ok(Effect::Nothing.of(show(same, agents)));
            }
            before => before.map_or_else(String::new, |before| before.selector),
        };
        if !self.0.store.save_selector(saved.clone()).await.map_err(unavailable)? {
            let text = format!("{MAX_SAVED_SELECTORS} are saved; delete one: writ selectors delete NAME");
            return Err(Failure::precondition("too_many_selectors", text).into());
        }
        let SavedSelector { name, selector, .. } = &saved;
        info!(target: "audit", actor = actor.name, name, selector, "selector saved");
        let agents = self.count(&saved).await?;
        Ok(Response::new(Shown { replaced, ..show(saved, agents) }))
    }

    async fn list(
        &self,
        request: Request<ListSelectorsRequest>,
    ) -> Result<Response<ListSelectorsResponse>, Status> {
        let counts = !request.into_inner().without_counts;
        let mut selectors = Vec::new();
        for saved in self.0.store.saved_selectors().await.map_err(unavailable)? {
            let agents = if counts { self.count(&saved).await? } else { 0 };
            selectors.push(show(saved, agents));
        }
        Ok(Response::new(ListSelectorsResponse { selectors }))
    }

    async fn delete(
        &self,
        request: Request<DeleteSelectorRequest>,
    ) -> Result<Response<DeleteSelectorResponse>, Status> {
        let actor = writ_common::admin::actor(&request)?;
        let DeleteSelectorRequest { name } = request.into_inner();
        let name = name.trim_start_matches('@');
        if !self.0.store.delete_selector(name).await.map_err(unavailable)? {
            return Err(choose::not_saved(name).into());
        }
        info!(target: "audit", actor = actor.name, name, "selector deleted");
        Ok(Response::new(DeleteSelectorResponse {}))
    }
}

impl Selectors {
    async fn count(&self, saved: &SavedSelector) -> Result<u32, Failure> {
        let chosen = choose::agents(&self.0, &choose::parse(&saved.selector)?).await?;
        Ok(u32::try_from(chosen.len()).unwrap_or(u32::MAX))
    }
}

fn show(saved: SavedSelector, agents: u32) -> Shown {
    let SavedSelector { name, selector, saved_by, saved_at } = saved;
    Shown { name, selector, saved_by, saved_at_ms: saved_at.as_millis(), agents, replaced: String::new() }
}
