//! Compiles the schema with protox, so that a fresh machine needs no `protoc`.

use prost::Message as _;

const FILES: &[&str] = &[
    "writ/v1/types.proto",
    "writ/v1/envelope.proto",
    "writ/v1/command.proto",
    "writ/v1/receipt.proto",
    "writ/v1/trust.proto",
    "writ/v1/gateway.proto",
    "writ/admin/v1/actions.proto",
    "writ/admin/v1/agents.proto",
    "writ/admin/v1/alerts.proto",
    "writ/admin/v1/audit.proto",
    "writ/admin/v1/commands.proto",
    "writ/admin/v1/rollouts.proto",
    "writ/admin/v1/enrollment.proto",
    "writ/admin/v1/manager.proto",
    "writ/admin/v1/objects.proto",
    "writ/admin/v1/operators.proto",
    "writ/admin/v1/selectors.proto",
    "writ/admin/v1/system.proto",
    "writ/admin/v1/trust.proto",
    "writ/admin/v1/updates.proto",
    "writ/manager/v1/registry.proto",
    "writ/manager/v1/link.proto",
    "writ/manager/v1/notify.proto",
    "writ/manager/v1/instruction.proto",
    "writ/manager/v1/entities.proto",
    "writ/manager/v1/tracking.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=writ");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    // Without transport: `connect` would clash with the RPC of that name, and we bring our own channels.
    tonic_prost_build::configure()
        .build_transport(false)
        // Who only needs messages, such as the protocol crate, needs no gRPC.
        .client_mod_attribute(".", "#[cfg(feature = \"services\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"services\")]")
        .bytes(".writ.v1")
        .bytes(".writ.manager.v1")
        .codec_path("crate::codec::SmallBuffers")
        .compile_fds(descriptors)?;
    Ok(())
}
