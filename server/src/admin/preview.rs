//! What a submission would come to, without signing or storing anything.

use std::collections::HashMap;
use std::sync::Arc;

use writ_common::status::Failure;
use writ_proto::admin::v1::{PreviewResponse, PreviewTarget};
use writ_protocol::audience::AudienceTree;
use writ_protocol::command::ActionClass;
use writ_protocol::id::AgentId;
use writ_protocol::rollout::Seed;

use crate::actions::{Outlook, Outlooks, blocking, foresee};
use crate::choose;
use crate::context::Server;
use crate::store::rules::rollout::Plan;
use crate::store::unavailable;
use crate::submit::{self, Request};
use writ_common::admin::{Actor, page};

/// Waves and agents of the first that are shown.
const MAX_SHOWN: usize = 100;

/// The frozen targets, a page of them after an agent, and what the agents say of the action.
pub(super) async fn preview(
    server: &Arc<Server>,
    actor: &Actor,
    request: Request,
    after: Option<AgentId>,
    size: u32,
) -> Result<PreviewResponse, Failure> {
    let Request { selection, action, rollout, lifetime, secrets, .. } = request;
    let targets = choose::resolve(server, selection).await?;
    submit::check_scope(server, actor, action.name(), &targets).await?;
    let staged = rollout.map(|staging| {
        Ok::<_, Failure>((submit::stage(server, &staging, targets.clone(), lifetime)?, staging.seed))
    });
    let staged = staged.transpose()?;
    let (ordered, seed) =
        staged.as_ref().map_or((&targets, None), |((ordered, _), seed)| (ordered, Some(*seed)));
    let tree =
        AudienceTree::of(seed, ordered).map_err(|error| Failure::invalid("agents", error.to_string()))?;
    let (waves, first) =
        staged.as_ref().map_or_else(Default::default, |((ordered, plan), _)| first_wave(plan, ordered));
    let mut names = HashMap::new();
    let (mut strictest, mut not_allowing, mut shown) = (None, 0, Vec::new());
    let tables = server.store.action_tables(&targets, Some(action.name())).await.map_err(unavailable)?;
    let foreseen = foresee(server, &action, secrets.clone(), &targets).await?;
    let obstacle = foreseen.obstacle.map_or_else(String::new, |obstacle| obstacle.message().to_owned());
    let looked = blocking(move || {
        let mut outlooks = Outlooks::of(&action, &secrets);
        tables.into_iter().map(|agent| (outlooks.at(&agent), agent)).collect::<Vec<_>>()
    });
    for (outlook, agent) in looked.await? {
        let obeys = matches!(outlook, Outlook::Obeys(_));
        if let Outlook::Obeys(class) | Outlook::Misfit(class, _) = outlook {
            strictest = strictest.max(Some(class));
        }
        not_allowing += u32::from(!obeys);
        if first.contains(&agent.id) {
            names.insert(agent.id, agent.name.clone());
        }
        let is_on_page = after.is_none_or(|after| agent.id > after);
        if is_on_page && u32::try_from(shown.len()).is_ok_and(|shown| shown < size) {
            shown.push(PreviewTarget {
                agent_id: agent.id.to_string(),
                agent_name: agent.name,
                connected: server.dispatcher.registry().is_connected(agent.id),
                allows: obeys,
                refusal: outlook.refusal().to_owned(),
            });
        }
    }
    let next_page_token = page::next(&shown, size, |target| target.agent_id.clone());
    Ok(PreviewResponse {
        target_count: tree.audience().count,
        audience_root: tree.audience().root.to_string(),
        // Of what nobody has, nobody can say how harmful it is.
        action_class: strictest.unwrap_or(ActionClass::Destructive).as_str().to_owned(),
        obstacle,
        not_allowing,
        targets: shown,
        next_page_token,
        waves,
        seed: seed.map_or(0, Seed::get),
        first_wave: first.iter().filter_map(|agent| names.remove(agent)).collect(),
    })
}

/// How many agents each wave has, and the first of the first.
fn first_wave(plan: &Plan, ordered: &[AgentId]) -> (Vec<u32>, Vec<AgentId>) {
    let targets = u32::try_from(ordered.len()).unwrap_or(u32::MAX);
    let ends = (0..plan.waves(targets)).take(MAX_SHOWN).map(|wave| plan.end_of(wave, targets));
    let waves = ends.scan(0, |before, end| Some(end - std::mem::replace(before, end))).collect();
    let first = usize::try_from(plan.end_of(0, targets)).unwrap_or(usize::MAX);
    (waves, ordered.iter().copied().take(first.min(MAX_SHOWN)).collect())
}
