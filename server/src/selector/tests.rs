use proptest::prelude::*;

use super::*;

fn parsed(text: &str) -> Vec<(String, Vec<String>, bool)> {
    let selector: Selector = text.parse().unwrap();
    selector.requirements.into_iter().map(|r| (r.name, r.values, r.is_negated)).collect()
}

fn one(name: &str, values: &[&str], is_negated: bool) -> (String, Vec<String>, bool) {
    (name.to_owned(), values.iter().map(|&value| value.to_owned()).collect(), is_negated)
}

#[test]
fn every_form_of_a_requirement_is_read() {
    let expected = [
        one("os", &["linux"], false),
        one("site", &["paris", "rome"], false),
        one("legacy", &[], true),
        one("gpu", &[], false),
        one("tier", &["web"], true),
        one("zone", &["a", "b"], true),
        one("in", &["x"], false),
        one("empty", &[""], false),
    ];
    let text = " os = linux ,site in (paris, rome),!legacy, gpu ,tier!=web,zone notin(a,b),in==x,empty=";
    // `zone notin(` has no space before its bracket, as in Kubernetes.
    assert_eq!(parsed(text), expected);
}

#[test]
fn how_an_agent_stands_and_what_was_saved_is_read_beside_its_attributes() {
    let day = Duration::from_secs(86_400);
    for (text, requirements, standings, saved) in [
        ("connected", 0, vec![Standing::Connected(true)], vec![]),
        ("!connected, held", 0, vec![Standing::Connected(false), Standing::Held(true)], vec![]),
        ("away,!held", 0, vec![Standing::Connected(false), Standing::Held(false)], vec![]),
        ("!away,site=a*", 1, vec![Standing::Connected(true)], vec![]),
        ("@web , away > 1d", 0, vec![Standing::AwayFor(day)], vec!["web"]),
        ("name in (web*,db1),away>1day1h", 1, vec![Standing::AwayFor(day + day / 24)], vec![]),
        // A name that only begins so is an attribute's.
        ("away-team=red,connected.to=x", 2, vec![], vec![]),
    ] {
        let selector: Selector = text.parse().unwrap();
        assert_eq!(selector.requirements.len(), requirements, "{text}");
        assert_eq!(
            (&selector.standings, &selector.saved),
            (&standings, &saved.iter().map(ToString::to_string).collect())
        );
        assert_eq!(selector.to_string().parse::<Selector>().unwrap(), selector, "{text}");
    }
    let asks = |text: &str| text.parse::<Selector>().unwrap().asks_for_names();
    assert!(asks("name in (web*,db1)") && !asks("name!=web*,site=rome"));
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (text, place) in [
        ("", 1),
        ("os=linux,", 10),
        ("os linux", 4),
        ("site in paris", 9),
        ("site in (paris", 15),
        ("os=a b", 6),
        ("!", 2),
        ("-os=linux", 1),
        ("os!linux", 4),
        ("os=linux)", 9),
        ("away > soon", 8),
        ("away > 1d 2h", 11),
        ("connected=yes", 10),
        ("!away > 1d", 7),
        ("@", 2),
    ] {
        let wrong = text.parse::<Selector>().unwrap_err();
        assert_eq!(wrong.place, place, "{text:?}: {wrong}");
    }
}

#[test]
fn bounds_are_refused_and_not_passed() {
    let many = |count: usize| (0..count).map(|n| format!("a{n}")).collect::<Vec<_>>().join(",");
    let is_read = |text: String| text.parse::<Selector>().is_ok();
    assert!(is_read(many(MAX_REQUIREMENTS)) && !is_read(many(MAX_REQUIREMENTS + 1)));
    let values = |count| format!("a in ({})", many(count));
    assert!(is_read(values(MAX_VALUES)) && !is_read(values(MAX_VALUES + 1)));
    let value = |bytes| format!("a={}", "x".repeat(bytes));
    assert!(is_read(value(MAX_NAME_BYTES)) && !is_read(value(MAX_NAME_BYTES + 1)));
    assert!(!is_read(" ".repeat(MAX_CHARACTERS) + "a"));
    let patterns = |count| format!("a in ({})", vec!["*"; count].join(","));
    assert!(is_read(patterns(MAX_PATTERNS)) && !is_read(patterns(MAX_PATTERNS + 1)));
}

prop_compose! {
    fn requirement()(
        name in "[a-zA-Z0-9][a-zA-Z0-9._/-]{0,20}",
        values in prop::collection::vec("[^\\s\\p{Cc},()=!\"'\\\\]{0,8}", 0..4),
        is_negated: bool,
    ) -> Requirement {
        Requirement { name, values, is_negated }
    }
}

proptest! {
    #[test]
    fn what_is_shown_is_read_as_the_same(requirements in prop::collection::vec(requirement(), 1..6)) {
        prop_assume!(requirements.iter().all(|one| !STANDING_WORDS.contains(&one.name.as_str())));
        let selector = Selector { requirements, ..Selector::default() };
        prop_assert_eq!(selector.to_string().parse::<Selector>().unwrap(), selector);
    }

    #[test]
    fn any_text_is_read_or_refused_within_itself(text in ".{0,64}") {
        match text.parse::<Selector>() {
            Ok(selector) => prop_assert!(selector.requirements().iter().all(|r| is_name(&r.name))),
            Err(wrong) => prop_assert!(wrong.place >= 1 && wrong.place <= text.chars().count() + 2),
        }
    }
}
