//! The Kubernetes manifests: built by kustomize, held against Kubernetes' own schemas, and what they start is
//! started, with the owners and modes that a kubelet gives volumes and secrets.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use integration_tests::containers::{HARDENED, Podman, VERSION};
use integration_tests::daemon::until;
use integration_tests::fleet::{Build, Fleet};
use integration_tests::machine::{Lan, repository};
use serde_json::Value;

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// As a kubelet leaves it for `fsGroup: 10001`.
fn for_group(path: &Path, mode: u32) {
    chown(path, Some(0), Some(10_001)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn the_manifests_are_kubernetes_own_and_what_they_start_works_with_its_owners_and_modes() {
    let lan = Lan::new();
    let podman = Podman::new(&lan.hub());
    let files = Fleet::unmade(Build::Shipped);
    let folder = repository().join("deploy/kubernetes");
    let built = files.run_tool("kubectl", &["kustomize", folder.to_str().unwrap()]).ok().stdout;
    let all = files.path("all.yaml");
    fs::write(&all, &built).unwrap();
    let python = repository().join("target/python");
    let script = format!(
        "import sys; sys.path.insert(0, '{}'); import json, yaml, kubernetes_validate as k\n\
         all = list(yaml.safe_load_all(open('{}')))\n\
         [k.validate(one, '1.31', strict=True) for one in all]\n\
         print(json.dumps(all))",
        python.display(),
        all.display()
    );
    let resources: Value = files.run_tool("python3", &["-c", &script]).ok().json();
    let find = |kind: &str, name: &str| {
        let of =
            |one: &&Value| one["kind"] == kind && one["metadata"]["name"].as_str().unwrap().starts_with(name);
        resources.as_array().unwrap().iter().find(of).unwrap_or_else(|| panic!("{kind} {name}"))
    };
    for name in ["writ-server", "writ-manager"] {
        assert_eq!(find("PodDisruptionBudget", name)["spec"]["maxUnavailable"], 0);
        let pod = &find("StatefulSet", name)["spec"]["template"]["spec"];
        // Else Kubernetes' own variables for the services, WRIT_…, would pass for configuration.
        assert_eq!(pod["enableServiceLinks"], false);
        let (init, main) = (&pod["initContainers"][0], &pod["containers"][0]);
        assert_eq!(main["image"], format!("{name}:{VERSION}"));

        let volume = files.path(&format!("{name}-volume"));
        fs::create_dir(&volume).unwrap();
        for_group(&volume, 0o2775);
        let passphrase = files.write_secret(&format!("{name}-passphrase"), "correct horse battery staple\n");
        for_group(&passphrase, 0o440);
        let config = files.path("config");
        fs::create_dir_all(&config).unwrap();
        fs::write(
            config.join("server.toml"),
            find("ConfigMap", "writ-server")["data"]["server.toml"].as_str().unwrap(),
        )
        .unwrap();
        let mounts = [
            format!("--volume={}:/data", volume.display()),
            format!("--volume={}:/passphrase/passphrase:ro", passphrase.display()),
            format!("--volume={}:/etc/writ:ro", config.display()),
        ];
        let mounts: Vec<_> = mounts.iter().map(String::as_str).collect();
        let image = podman.image(name.strip_prefix("writ-").unwrap());
        let group = "--group-add=10001";
        let begin = ["run", "--rm", "--network=none", group];
        podman.run(&[&begin, &HARDENED[..], &mounts, &[&image], &texts(&init["args"])].concat()).ok();
        let container = format!("{}-{name}", podman.name);
        let network = format!("--network=ns:/run/netns/{}", lan.hub());
        let begin = ["run", "--detach", "--name", &container, &network, group];
        podman.run(&[&begin, &HARDENED[..], &mounts, &[&image], &texts(&main["args"])].concat()).ok();
        let probe = |probe: &str| {
            let command = texts(&main[probe]["exec"]["command"]);
            podman.run(&[&["exec", &container], &command[..]].concat()).code
        };
        until("it does not start", || probe("startupProbe") == 0);
        until("it is not ready", || probe("readinessProbe") == 0);
        assert_eq!(probe("livenessProbe"), 0);
        // A pod that starts again needs no passphrase.
        fs::remove_file(&passphrase).unwrap();
        let mounts = [mounts[0]];
        let begin = ["run", "--rm", "--network=none", group];
        podman.run(&[&begin, &HARDENED[..], &mounts, &[&image], &texts(&init["args"])].concat()).ok();
    }
}
