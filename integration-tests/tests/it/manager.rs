//! A server and its Control Manager: registering, being told, changing, leaving.

use integration_tests::fleet::{Build, Fleet};
use integration_tests::manager::Manager;
use serde_json::Value;

fn entity(fleet: &Fleet) -> Value {
    let entities = fleet.cm(&["entities", "list"]);
    let [only] = entities.as_array().unwrap().as_slice() else { panic!("{entities:#}") };
    only.clone()
}

#[test]
fn a_server_registers_and_is_listed_with_name_host_product_version_addresses_mode_and_state() {
    let fleet = Fleet::new(Build::Shipped);
    let manager = Manager::new(&fleet);
    manager.introduce(&fleet);
    assert_eq!(fleet.line()["state"], "unregistered");

    let (legs, went_well) = fleet.legs(&[]);
    assert!(went_well, "{legs:#?}");
    assert_eq!(fleet.cm(&["entities", "list"]), serde_json::json!([]), "a test makes no entity");

    // Offered and not answered: nothing is registered.
    let refused = fleet.writ(&["--output", "json", "manager", "register"]).failed(7);
    assert!(refused.stderr.contains("update_source_unanswered"), "{refused:?}");
    assert_eq!(
        (fleet.line()["state"].clone(), fleet.cm(&["entities", "list"])),
        ("unregistered".into(), serde_json::json!([]))
    );

    let status = fleet.json(&["manager", "register", "--update-source", "manager"]);
    assert_eq!(
        (&status["state"], &status["certificate_authorization"]),
        (&"waiting".into(), &true.into()),
        "{status}"
    );
    let listed = entity(&fleet);
    assert_eq!(listed["state"], "waiting");
    let _in = fleet.cm(&["entities", "approve", status["entity_id"].as_str().unwrap()]);
    let status = fleet.json(&["manager", "register", "--update-source", "manager"]);
    assert_eq!(
        (&status["state"], &status["update_source"]),
        (&"registered".into(), &"manager".into()),
        "{status}"
    );

    let listed = entity(&fleet);
    let name = listed["display_name"].as_str().unwrap();
    assert!(name.ends_with("_WRIT") && name.starts_with(listed["host_name"].as_str().unwrap()), "{listed}");
    assert_eq!(
        (&listed["product"], &listed["mode"], &listed["state"]),
        (&"writ-server".into(), &"one-way".into(), &"active".into()),
        "{listed}"
    );
    assert_eq!(listed["entity_id"], status["entity_id"]);
    assert!(!listed["version"].as_str().unwrap().is_empty() && listed["addresses"].is_array(), "{listed}");
}

#[test]
fn an_instruction_goes_to_the_fleet_through_the_operators_door_and_is_tracked_to_its_end() {
    let fleet = Fleet::new(Build::Shipped);
    let _agents = [fleet.agent("rome"), fleet.agent("paris")];
    let manager = Manager::new(&fleet);
    let _set = fleet.settings(&["--heartbeat", "1s", "--abnormal-after", "3s"]).ok();
    let status = fleet.registered(&manager);

    let issued = fleet.cm(&["instruct", "ping", "--all"]);
    let id = issued["instruction_id"].as_str().unwrap();
    fleet.server().wait_for("instruction acted on", |_| true);
    manager.daemon().wait_for("instruction ended", |said| said["instruction.id"] == id);
    let shown = fleet.cm(&["instruct", "show", id]);
    assert_eq!(
        (&shown["total"], &shown["successful"], &shown["in_progress"]),
        (&1.into(), &1.into(), &0.into()),
        "{shown:#}"
    );
    let delivery = &shown["deliveries"][0];
    assert_eq!((&delivery["agents"], &delivery["agents_done"]), (&2.into(), &2.into()), "{shown:#}");
    let command = fleet.json(&["commands", "show", delivery["command_id"].as_str().unwrap()]);
    assert_eq!(command["requested_by"], "control-manager/admin", "{command}");
    assert_eq!(fleet.line()["instructions_open"], 0);
    assert_eq!(status["instructions_refused"], 0);
}
