//! The tables of who may call what, against the schema.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use prost_types::FileDescriptorSet;
use prost_types::field_descriptor_proto::{Label, Type};
use writ_common::admin::Rule;

/// What entities call, on a port of its own.
const OF_ENTITIES: [&str; 3] = ["Registry", "EntityLink", "EntityNotify"];

/// Methods of some services: their paths, and the messages they take.
fn methods(files: &FileDescriptorSet, is_listed: impl Fn(&str, &str) -> bool) -> BTreeMap<String, String> {
    let mut methods = BTreeMap::new();
    for file in &files.file {
        for service in file.service.iter().filter(|service| is_listed(file.package(), service.name())) {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                methods.insert(path, method.input_type().to_owned());
            }
        }
    }
    methods
}

/// The name of a message's field that holds one text, or a few.
fn text_field(files: &FileDescriptorSet, message: &str, number: i32) -> String {
    let (package, name) = message.trim_start_matches('.').rsplit_once('.').unwrap();
    let files = files.file.iter().filter(|file| file.package() == package);
    let message = files.flat_map(|file| &file.message_type).find(|known| known.name() == name).unwrap();
    let field = message.field.iter().find(|field| field.number() == number).unwrap();
    // Names of actions are a few.
    let label = if field.name() == "actions" { Label::Repeated } else { Label::Optional };
    assert_eq!((field.r#type(), field.label()), (Type::String, label), "{}", field.name());
    field.name().to_owned()
}

/// What the audit entries of a table's changes name.
fn checked(
    policy: &[(&str, Rule)],
    files: &FileDescriptorSet,
    methods: &BTreeMap<String, String>,
) -> BTreeSet<String> {
    let ours = policy.iter().filter(|(path, _)| path.starts_with("/writ."));
    let rows: BTreeMap<_, _> = ours.map(|(path, rule)| ((*path).to_owned(), *rule)).collect();
    assert_eq!(rows.keys().collect::<Vec<_>>(), methods.keys().collect::<Vec<_>>());
    assert!(rows.values().all(|rule| *rule != Rule::Open), "no method of ours is open to everybody");
    let mut named = BTreeSet::new();
    for (path, rule) in rows {
        if let Rule::Change(_, about) = rule {
            named.extend(about.fields().iter().map(|number| text_field(files, &methods[&path], *number)));
        }
    }
    named
}

#[test]
fn every_admin_method_has_a_row_every_row_a_method_and_what_is_audited_of_a_request_is_a_name() {
    let files = FileDescriptorSet::decode(writ_proto::DESCRIPTORS).unwrap();
    let servers = methods(&files, |package, _| package == "writ.admin.v1");
    let named = checked(writ_server::POLICY, &files, &servers);
    assert_eq!(
        named,
        BTreeSet::from(
            [
                "actions",
                "agent",
                "alert_id",
                "command_id",
                "component",
                "name",
                "replaces",
                "selector",
                "token_id",
                "value",
            ]
            .map(str::to_owned)
        )
    );
    let managers = methods(&files, |package, service| match package {
        "writ.manager.v1" => !OF_ENTITIES.contains(&service),
        "writ.admin.v1" => matches!(service, "AuditService" | "ObjectService" | "OperatorService"),
        _ => false,
    });
    let named = checked(writ_control_manager::POLICY, &files, &managers);
    assert_eq!(
        named,
        BTreeSet::from(["actions", "entity", "name", "selector", "token_id", "value"].map(str::to_owned))
    );
}
