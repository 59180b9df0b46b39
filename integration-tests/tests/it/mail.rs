//! People are told of alerts by mail, over TLS.

use integration_tests::daemon::until;
use integration_tests::fleet::{Build, Fleet};
use integration_tests::mailbox::{MailServer, PASSWORD, UNWANTED};

fn scene(to: &str) -> (Fleet, MailServer) {
    let mut fleet = Fleet::unmade(Build::Testing);
    let _made = fleet.init().ok();
    let post = MailServer::start(&fleet);
    fleet.server_config = post.config(&fleet, to);
    fleet.start_server(None);
    fleet.add_context();
    (fleet, post)
}

#[test]
fn an_alert_is_mailed_when_it_opens_and_ends_and_what_comes_meanwhile_is_in_one_mail() {
    // One of them has left: the others hear all the same.
    let (fleet, post) = scene("\"gone@elsewhere.example\", \"anna@ops.example\", \"ben@ops.example\"");
    fleet.install_anew("rome");
    let came = post.wait_for("Subject: [acme] same_name open: rome");
    for line in [
        "To: gone@elsewhere.example, anna@ops.example, ben@ops.example",
        "Auto-Submitted: auto-generated",
        "writ agents approve",
    ] {
        assert!(came.contains(line), "{line}: {came}");
    }
    assert!(
        came.contains("From: \"Writ\" <writ@acme.example>")
            || came.contains("From: Writ <writ@acme.example>"),
        "{came}"
    );
    let older = fleet.json(&["agents", "list"])[0]["agent_id"].as_str().unwrap().to_owned();
    let _removed = fleet.json(&["agents", "remove", &older]);
    let _ended = post.wait_for("Subject: [acme] same_name ended: rome");
    // The password is in no log.
    assert!(!fleet.server().said().contains(PASSWORD));
}

#[test]
fn what_a_mail_server_does_not_take_is_mailed_later_and_is_an_alert_meanwhile() {
    // It takes mail for others from nobody.
    let (mut fleet, post) = scene("\"anna@elsewhere.example\"");
    fleet.install_anew("rome");
    fleet.install_anew("oslo");
    fleet.server().wait_for("the mail server does not take alerts; it is tried again", |said| {
        said["why"].as_str().unwrap().contains("not for us")
    });
    let is_alert = |fleet: &Fleet| {
        let alerts = fleet.json(&["alerts"]);
        alerts.as_array().unwrap().iter().any(|alert| alert["kind"] == "not_mailed")
    };
    until("there is an alert", || is_alert(&fleet));
    // Also after this server was killed in the middle of it, and the address was mended.
    fleet.kill_server();
    fleet.server_config = post.config(&fleet, "\"anna@ops.example\"");
    fleet.start_server(None);
    fleet.add_context();
    let came = post.wait_for("Subject: [acme] 2 alerts: same_name");
    for name in ["rome", "oslo"] {
        assert_eq!(came.matches(&format!("about   {name}")).count(), 1, "{came}");
    }
    until("it ends", || !is_alert(&fleet));
}

#[test]
fn alerts_whose_words_are_refused_are_mailed_by_number_and_while_all_mail_is_none_is_lost() {
    let (fleet, post) = scene("\"anna@ops.example\"");
    let number = |name: &str| {
        fleet.install_anew(name);
        let alerts = fleet.json(&["alerts"]);
        let mut alerts = alerts.as_array().unwrap().iter();
        alerts.find(|alert| alert["agent_name"] == name).unwrap()["alert_id"].as_u64().unwrap()
    };
    post.refuse_all(true);
    let rome = number("rome");
    fleet.server().wait_for("the mail server does not take alerts; it is tried again", |said| {
        said["why"].as_str().unwrap().contains("sender not verified")
    });
    let oslo = number("oslo");
    assert_eq!(post.mailbox(), "");
    post.refuse_all(false);
    for number in [rome, oslo] {
        let alert = format!("  alert   {number}");
        assert_eq!(post.wait_for(&alert).matches(&alert).count(), 1);
    }

    let unwanted = number(UNWANTED);
    post.wait_for(&format!("  alert   {unwanted}, same_name\n"));
    number("paris");
    let came = post.wait_for("Subject: [acme] same_name open: paris");
    assert!(!came.contains(UNWANTED), "{came}");
}

#[test]
fn settings_that_would_mail_nobody_or_in_the_clear_are_refused_when_the_server_starts() {
    let mut fleet = Fleet::unmade(Build::Shipped);
    let _made = fleet.init().ok();
    let whole = "server = \"post.example:465\"\nfrom = \"writ@acme.example\"\nto = [\"anna@ops.example\"]\n";
    for (config, says) in [
        (whole.replace("post.example:465", "post.example"), "alerts.mail.server"),
        (whole.replace("post.example:465", "post.example:25"), "STARTTLS"),
        (whole.replace("writ@acme.example", "writ"), "alerts.mail.from"),
        (whole.replace("anna@ops.example", "anna"), "alerts.mail.to"),
        (whole.replace("\"anna@ops.example\"", ""), "alerts.mail.to"),
        (format!("{whole}user = \"writ\"\n"), "alerts.mail.password_file"),
        (format!("{whole}user = \"writ\"\npassword_file = \"/nowhere/at/all\"\n"), "/nowhere/at/all"),
        (format!("{whole}ca = \"/nowhere/at/all\"\n"), "/nowhere/at/all"),
        ("from = \"writ@acme.example\"\n".to_owned(), "`alerts.mail.server` is missing"),
    ] {
        fleet.server_config = format!("[alerts.mail]\n{config}");
        let (status, said) = fleet.try_server().wait();
        assert!(status.code() == Some(64) && said.contains(says), "{config}: {said}");
    }
}
