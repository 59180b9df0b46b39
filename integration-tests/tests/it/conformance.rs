//! The kit for implementations of others, with ours in their place: all of it holds, and what does not is
//! told.

use std::fs;

use integration_tests::conformance::{Report, of_agent, of_server};
use integration_tests::daemon::binary;
use integration_tests::fleet::{Build, Fleet};

fn failing(report: &Report) -> Vec<&str> {
    report.cases().iter().filter(|case| !case.holds).map(|case| case.says.as_str()).collect()
}

#[test]
fn our_agent_passes_the_kit_and_a_program_that_is_none_does_not() {
    let agent = binary("writ-agent").display().to_string();
    let script = "exec \"$0\" run --data-dir \"$PWD/data\" --token-file \"$WRIT_TOKEN_FILE\"";
    let mut report = Report::default();
    of_agent::judge(&["sh", "-c", script, &agent].map(str::to_owned), &mut report);
    assert!(report.holds(), "{:#?}", report.cases());
    assert!(report.cases().len() > 20, "{:#?}", report.cases());

    for (command, says) in [("true", "it enrols with its token"), ("/nowhere/at/all", "it starts")] {
        let mut report = Report::default();
        of_agent::judge(&[command.to_owned()], &mut report);
        assert_eq!((failing(&report), report.holds()), (vec![says], false));
    }
}

#[test]
fn our_server_passes_the_kit_and_a_road_to_nowhere_does_not() {
    let fleet = Fleet::new(Build::Shipped);
    let token = fs::read_to_string(fleet.token(1)).unwrap();
    let mut report = Report::default();
    of_server::judge(&token, &mut report);
    assert!(report.holds(), "{:#?}", report.cases());
    assert!(report.cases().len() > 12, "{:#?}", report.cases());

    fleet.road.lead_to(1);
    let mut report = Report::default();
    of_server::judge(&token, &mut report);
    assert_eq!(failing(&report), ["it gives the chain from the bundle the token names"]);
    let mut report = Report::default();
    of_server::judge("no token", &mut report);
    assert_eq!(failing(&report), ["the token can be read"]);
    // A wrong path is the caller's mistake, not the server's.
    let said = fleet.run("conformance", &["server", "--token-file", "/nowhere/at/all"]).failed(2);
    assert!(said.stderr.contains("/nowhere/at/all: No such file"), "{said:?}");
}
