use writ_protocol::refusal::RefusalCode;

use super::*;

fn definition(text: &str) -> Result<Definition, Problems> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("say.toml");
    std::fs::write(&path, text).unwrap();
    Definition::load(&path, Digest::of(text.as_bytes()), users::own_uid())
}

const SAY: &str = r#"
program = "/bin/echo"
arguments = ["{{{word}}}", "--times={times}", "{how}"]
class = "read"
[parameters.word]
type = "text"
pattern = "[a-z]+"
[parameters.times]
type = "integer"
least = 1
most = 9
default = 1
[parameters.how]
type = "choice"
choices = ["loud", "low"]
"#;

fn given(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn values_stand_where_the_template_says_and_nowhere_else() {
    let say = definition(SAY).unwrap();
    let invocation = say.invoke(&given(&[("how", "low"), ("word", "hello")])).unwrap();
    assert_eq!(invocation.arguments, ["{hello}", "--times=1", "low"]);
    assert_eq!((say.name.as_str(), say.class, say.schema.is_idempotent), ("say", ActionClass::Read, false));
}

#[test]
fn a_value_outside_its_type_is_refused_by_name() {
    let say = definition(SAY).unwrap();
    for (pairs, named) in [
        (vec![("how", "low")], "`word` is missing"),
        (vec![("how", "low"), ("word", "hello; rm")], "`word` must match"),
        (vec![("how", "low"), ("word", "hello\nworld")], "`word` must match"),
        (vec![("how", "low"), ("word", "hello\n")], "`word` must match"),
        (vec![("how", "odd"), ("word", "hello")], "`how` must be one of"),
        (vec![("how", "low"), ("times", "10"), ("word", "hello")], "`times` must be a whole number"),
        (vec![("how", "low"), ("times", "+1"), ("word", "hello")], "`times` must be a whole number"),
        (vec![("how", "low"), ("who", "me"), ("word", "hello")], "no parameter `who`"),
    ] {
        let refusal = say.invoke(&given(&pairs)).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::InvalidParameters);
        assert!(refusal.detail.contains(named), "{refusal}");
    }
}

#[test]
fn a_text_that_looks_like_an_option_is_refused_whatever_the_pattern() {
    let any =
        "program = \"/bin/echo\"\narguments = [\"{a}\"]\n[parameters.a]\ntype = \"text\"\npattern = \".*\"\n";
    let refusal = definition(any).unwrap().invoke(&given(&[("a", "--delete")])).unwrap_err();
    assert!(refusal.detail.contains("dash"), "{refusal}");
}

#[test]
fn every_mistake_of_a_file_is_named_at_once() {
    let wrong = r#"
program = "echo"
arguments = ["{word}", "{", "x"]
klass = "read"
timeout = 5
[parameters.unused]
type = "choice"
"#;
    let problems = definition(wrong).unwrap_err().to_string();
    for part in [
        "`program` is `echo`; it must be an absolute path",
        "uses {word}, which is not under [parameters]",
        "`{` is not closed",
        "`klass` is not a known key; did you mean `class`?",
        "`timeout` is `5`",
        "`parameters.unused` is not used",
        "`parameters.unused.choices` is missing",
    ] {
        assert!(problems.contains(part), "{part} is not in {problems}");
    }
}

#[test]
fn shells_and_files_others_may_write_are_refused() {
    let shell =
        definition("program = \"/bin/sh\"\narguments = [\"-c\", \"true\"]\n").unwrap_err().to_string();
    assert!(shell.contains("a shell"), "{shell}");

    let unanchored = "program = \"/bin/echo\"\narguments = [\"{a}\"]\n[parameters.a]\ntype = \"text\"\npattern = \"a)|(b\"\n";
    let unanchored = definition(unanchored).unwrap_err().to_string();
    assert!(unanchored.contains("is no regular expression"), "{unanchored}");

    let folder = tempfile::tempdir().unwrap();
    let (interpreter, script) = (folder.path().join("python"), folder.path().join("script"));
    std::fs::copy("/bin/true", &interpreter).unwrap();
    std::fs::set_permissions(&interpreter, std::fs::Permissions::from_mode(0o777)).unwrap();
    std::fs::write(&script, format!("#!{} -I\n", interpreter.display())).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let open = definition(&format!("program = \"{}\"\n", script.display())).unwrap_err().to_string();
    assert!(open.contains(&format!("chmod go-w {}", interpreter.display())), "{open}");

    let path = folder.path().join("open.toml");
    std::fs::write(&path, "program = \"/bin/echo\"\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let open = Definition::load(&path, Digest::of(b"any"), users::own_uid()).unwrap_err().to_string();
    assert!(open.contains("chmod go-w"), "{open}");
}

#[test]
fn a_secret_reaches_the_program_in_its_environment_and_nothing_else() {
    let secret =
        "program = \"/bin/echo\"\n[parameters.pass-word]\ntype = \"text\"\npattern = \".+\"\nsecret = true\n";
    let login = definition(secret).unwrap();
    let invocation = login.invoke(&given(&[("pass-word", "hunter2")])).unwrap();
    assert!(invocation.arguments.is_empty());
    assert_eq!(invocation.secrets.0, [("WRIT_PARAMETER_PASS_WORD".to_owned(), "hunter2".to_owned())]);
    assert!(!format!("{invocation:?}").contains("hunter2"));
    for (text, says) in [
        (format!("arguments = [\"{{pass-word}}\"]\n{secret}"), "which is secret"),
        (format!("{secret}default = \"x\"\n"), "what stands in a file is no secret"),
        (
            format!("{secret}[parameters.pass_word]\ntype = \"text\"\npattern = \".+\"\nsecret = true\n"),
            "as another secret parameter has",
        ),
    ] {
        let problems = definition(&text).unwrap_err().to_string();
        assert!(problems.contains(says), "{problems}");
    }
}
