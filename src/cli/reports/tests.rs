//! Reports of builds that strangers have named.

use proptest::prelude::*;
use serde_json::Value;

use super::{told::*, *};
use crate::model::{
    BuildId, Event, Outcome, Place, Record, SourcePlace, State, TaskName, WarnedPlace, WarningGroup, danger,
};

/// What a log, a recipe or a file can be called by a stranger.
const HOSTILE: &str = "</failure>&\"'<![CDATA[\u{1}\u{0}\u{fffe}]]> `| [x](http://e.org) <img src=x> @team\n::add-mask::x\r##[error]y\u{202e}\u{1b}[2J";

fn build(state: State) -> BuildRecord {
    let outcome = Outcome { duration_ms: 61_500, artifacts: 2, artifact_bytes: 2_000_000, ..Outcome::new(state) };
    BuildRecord {
        id: BuildId::new("p", 0xabcd).expect("an id"),
        name: "p".into(),
        config: Some("/r/p/smidr.yaml".into()),
        machine: "qemu".into(),
        targets: vec!["image".into()],
        variant: None,
        customer: None,
        labels: Default::default(),
        waits: false,
        queued: None,
        state,
        started: "2026-01-01T10:00:00Z".parse().expect("a time"),
        ended: None,
        outcome: Some(outcome),
    }
}

fn gathered(events: impl IntoIterator<Item = Event>) -> Gathering {
    let mut gathering = Gathering::default();
    for (number, event) in (1..).zip(events) {
        let at = jiff::Timestamp::from_second(number).expect("a time");
        gathering.take(&Record {
            build: BuildId::new("p", 1).expect("an id"),
            place: Place::Seq(number.unsigned_abs()),
            at,
            event,
        });
    }
    gathering
}

fn name(recipe: &str, task: &str) -> TaskName {
    TaskName { recipe: recipe.into(), task: task.into() }
}

fn begins(recipe: &str, task: &str, setscene: bool) -> Event {
    Event::TaskStarted { name: name(recipe, task), pid: 1, index: 1, total: 9, setscene, log: None }
}

fn ends(recipe: &str, task: &str, ok: bool) -> Event {
    Event::TaskEnded { name: name(recipe, task), pid: 1, ok, setscene: false, log: None }
}

fn diagnosis(recipe: &str, task: &str, cause: &str) -> Diagnosis {
    Diagnosis {
        recipe: Some(recipe.into()),
        task: Some(task.into()),
        ..plain(
            "missing-header".into(),
            cause.into(),
            vec!["a.c:1: no b.h".into()],
            vec![Hint::command("find it", "ls")],
        )
    }
}

fn repository() -> Repository {
    Repository { roots: vec!["/r".into()] }
}

fn failed_build() -> Told {
    let console = "ERROR: Task (mc:x:virtual:native:/r/l/bad_1.bb:do_compile) failed with exit code '1'".into();
    let events = [
        begins("good", "do_fetch", false),
        ends("good", "do_fetch", true),
        begins("mc:x:bad-native", "do_compile", false),
        Event::Console { line: console },
        ends("mc:x:bad-native", "do_compile", false),
        begins("same", "do_compile", false),
        ends("same", "do_compile", false),
        begins("again", "do_fetch", false),
        ends("again", "do_fetch", false),
        begins("again", "do_fetch", false),
        ends("again", "do_fetch", true),
        Event::TaskSkipped { name: name("old", "do_build"), covered: true },
        begins("cut", "do_compile", false),
        begins("dark", "do_compile", false),
        ends("dark", "do_compile", false),
    ];
    let why = Diagnosis {
        multiconfig: Some("x".into()),
        also: vec![name("same", "do_compile")],
        ..diagnosis("bad-native", "do_compile", "No b.h & no <c.h>.")
    };
    gathered(events).told(&build(State::Failed), Some(vec![why]), &repository())
}

#[test]
fn a_test_for_each_recipe() {
    let told = failed_build();
    let xml = junit::of(std::slice::from_ref(&told));
    let failure = "<failure type=\"missing-header\" message=\"No b.h &amp; no &lt;c.h&gt;.\">mc:x:bad-native:do_compile: missing-header: No b.h &amp; no &lt;c.h&gt;.\nl/bad_1.bb:1\n| a.c:1: no b.h\n- find it:  ls</failure>";
    let expected = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>
<testsuites name=\"smidr\" tests=\"7\" failures=\"3\" errors=\"0\" time=\"61.500\">
  <testsuite name=\"p-0000abcd\" tests=\"7\" failures=\"3\" errors=\"0\" skipped=\"2\" time=\"61.500\" timestamp=\"2026-01-01T10:00:00\">
    <properties>
      <property name=\"state\" value=\"FAILED\"/>
      <property name=\"machine\" value=\"qemu\"/>
      <property name=\"targets\" value=\"image\"/>
    </properties>
    <testcase name=\"again\" classname=\"p\" time=\"2.000\"/>
    <testcase name=\"cut\" classname=\"p\" time=\"0.000\">
      <skipped>the build ended while a task of it ran</skipped>
    </testcase>
    <testcase name=\"dark\" classname=\"p\" time=\"1.000\">
      <failure type=\"unknown\" message=\"A task failed, and no line says why.\">dark: unknown: A task failed, and no line says why.</failure>
    </testcase>
    <testcase name=\"good\" classname=\"p\" time=\"1.000\"/>
    <testcase name=\"bad-native\" classname=\"p.x\" time=\"2.000\">
      {failure}
    </testcase>
    <testcase name=\"old\" classname=\"p\" time=\"0.000\">
      <skipped>its results were there: nothing ran</skipped>
    </testcase>
    <testcase name=\"same\" classname=\"p\" time=\"1.000\">
      {failure}
    </testcase>
  </testsuite>
</testsuites>
"
    );
    assert_eq!(xml, expected);
    let lines: Vec<String> = annotations::of(&[told]).into_iter().map(String::from).collect();
    assert_eq!(
        lines,
        [
            "::error file=l/bad_1.bb,line=1,title=mc%3Ax%3Abad-native%3Ado_compile%3A missing-header::No b.h & no <c.h>.%0Afind it:  ls",
            "::error title=dark%3A unknown::A task failed, and no line says why.",
        ]
    );
}

#[test]
fn what_is_no_recipes_is_the_builds() {
    let suite = |told: &Told| {
        let xml = junit::of(std::slice::from_ref(told));
        let cases = xml.split("<testcase ").skip(1).map(|case| case.split('"').nth(1).unwrap_or_default().to_owned());
        (cases.collect::<Vec<_>>(), xml.matches("<failure").count(), xml.matches("<skipped").count())
    };
    let of = |state, diagnoses| gathered([]).told(&build(state), Some(diagnoses), &repository());
    let the_build = || vec!["the build".to_owned()];
    assert_eq!(suite(&of(State::Completed, Vec::new())), (the_build(), 0, 0), "no report is without a test");
    assert_eq!(suite(&of(State::Cancelled, Vec::new())), (the_build(), 0, 1));
    assert_eq!(suite(&of(State::Building, Vec::new())), (the_build(), 0, 1));
    assert_eq!(suite(&of(State::Interrupted, Vec::new())), (the_build(), 1, 0));
    let parse = Diagnosis {
        task: None,
        source: Some(SourcePlace { file: "/r/l/a.bb".into(), line: Some(7) }),
        ..diagnosis("a", "", "A line is wrong.")
    };
    let told = of(State::Failed, vec![parse]);
    assert_eq!(suite(&told), (the_build(), 1, 0), "a recipe that was not parsed was not built");
    assert_eq!(told.failures[0].place, Some(("l/a.bb".into(), 7)));
    assert_eq!(suite(&of(State::Completed, vec![diagnosis("a", "do_b", "")])), (the_build(), 0, 0));
    let mut wanted = Wanted::default();
    wanted.take_logs(Path::new("/ci/console.log"), vec![diagnosis("a", "do_b", "x"), diagnosis("a", "do_c", "x")]);
    assert_eq!(suite(&wanted.told[0]), (vec!["a".into()], 1, 0));
    wanted.take_refused(Path::new("/r/p/smidr.yaml"), &Refused::new("there is no x", [Hint::new("say y")]).into());
    assert_eq!(suite(&wanted.told[1]), (the_build(), 1, 0));
    assert_eq!(wanted.told[1].failures[0].why.cause, "there is no x");
}

#[test]
fn places_are_in_the_repository() {
    let inside = |path: &str| repository().inside(Path::new(path));
    assert_eq!(inside("/r/l/a.bb").as_deref(), Some("l/a.bb"));
    for outside in ["/x/a", "/r", "a.c", "../a", "/r/../x", ""] {
        assert_eq!(inside(outside), None, "{outside}");
    }
}

#[test]
fn code_quality_names_each_failure_once() {
    let told = failed_build();
    let issues: Value = serde_json::from_str(&quality::of(&[told, failed_build()])).expect("JSON");
    let issues = issues.as_array().expect("an array");
    assert_eq!(issues.len(), 2, "{issues:?}");
    let (first, second) = (&issues[0], &issues[1]);
    assert_eq!(first["location"]["path"], "l/bad_1.bb");
    assert_eq!((&first["severity"], &first["check_name"]), (&"blocker".into(), &"missing-header".into()));
    assert_eq!(
        (&second["location"]["path"], &second["location"]["lines"]["begin"]),
        (&"p/smidr.yaml".into(), &1.into())
    );
    assert!(
        first["fingerprint"] != second["fingerprint"] && first["fingerprint"].as_str().is_some_and(|f| f.len() == 64)
    );
    assert_eq!(quality::of(&[]), "[]\n");
}

#[test]
fn a_summary_is_markdown() {
    let text = summary::of(&[failed_build()]);
    for part in [
        "## p\\-0000abcd: FAILED\n\n| | |\n|---|---|\n| target | ` image ` |\n| machine | ` qemu ` |\n| took | 61 s |\n| tasks | 7 run, 0 from sstate; 3 recipes failed |\n",
        "### mc\\:x\\:bad\\-native\\:do\\_compile\\: missing\\-header\n\nNo b\\.h &amp; no &lt;c\\.h&gt;\\.\n\n` l/bad_1.bb:1 `\n\n```text\na.c:1: no b.h\n```\n\n- find it: ` ls `\n",
        "2 artifacts, 2.0 MB\n",
    ] {
        assert!(text.contains(part), "{part}\n--- is not in\n{text}");
    }
}

fn warned(recipe: &str) -> WarningGroup {
    let place = WarnedPlace { recipe: Some(recipe.into()), layer: Some(recipe.into()), count: 3, new: 1 };
    WarningGroup { kind: "qa-arch".into(), count: 3, new: 1, places: vec![place], examples: vec![recipe.into()] }
}

#[test]
fn warnings_are_in_the_summary_and_in_code_quality() {
    let mut told = gathered([]).told(&build(State::Completed), None, &repository());
    told.warnings = vec![warned("a|b")];
    let text = summary::of(std::slice::from_ref(&told));
    assert!(
        text.contains("| warnings | kind | new | where |\n|---|---|---|---|\n| 3 | ` qa-arch ` | 1 | ` a\\|b ` |\n"),
        "{text}"
    );
    let issues: Value = serde_json::from_str(&quality::of(&[told])).expect("JSON");
    assert_eq!((&issues[0]["severity"], &issues[0]["check_name"]), (&"minor".into(), &"qa-arch".into()));
    assert_eq!(issues[0]["description"], "warnings: 3 qa-arch in a|b (a|b), 1 new");
}

fn hostile(text: &str) -> Told {
    let why = Diagnosis {
        kind: text.into(),
        source: Some(SourcePlace { file: format!("/r/{text}"), line: None }),
        ..plain(String::new(), text.into(), vec![text.into()], vec![Hint::config(text, text), Hint::new(text)])
    };
    let task = Diagnosis { recipe: Some(text.into()), task: Some(text.into()), ..why.clone() };
    let events = [begins(text, text, false), ends(text, text, false), begins(&format!("mc:{text}"), "do_a", true)];
    let record = BuildRecord { machine: text.into(), targets: vec![text.into()], ..build(State::Failed) };
    let mut told = gathered(events).told(&record, Some(vec![why, task]), &repository());
    told.files = vec![(text.into(), 1)];
    told.warnings = vec![warned(text)];
    told
}

/// What of a text in Markdown is in no code.
fn outside_of_code(text: &str) -> String {
    let (mut outside, mut fence) = (String::new(), None::<String>);
    for line in text.lines() {
        match &fence {
            Some(end) if line == end => fence = None,
            Some(_) => {}
            None if line.starts_with("```") => fence = Some(line.trim_end_matches("text").to_owned()),
            None => outside.push_str(&format!("{line}\n")),
        }
    }
    outside
}

#[test]
fn nothing_breaks_out_of_a_report() {
    let text = summary::of(&[hostile(HOSTILE)]);
    let outside = outside_of_code(&text);
    assert!(
        outside.contains("&lt;\\/failure&gt;&amp;") && outside.contains("\\`\\| \\[x\\]\\(http\\:\\/\\/e\\.org\\)"),
        "{outside}"
    );
    assert!(outside.contains("&#64;team"), "{outside}");
    // In spans of code, the fence is longer than what is in it; in tables, a bar is escaped there too.
    assert!(outside.contains("| target | `` </failure>&\"'") && outside.contains("`\\| [x](http"), "{outside}");
    for line in outside.lines() {
        let line = line.trim_start_matches("- ");
        assert!(!line.starts_with("<") && !line.contains("\r") && !line.starts_with("::"), "{line}");
    }
}

proptest! {
    #[test]
    fn any_text_stays_what_it_is(text in prop_oneof![any::<String>(), Just(HOSTILE.into()), "[`<>&|\\[\\]()#:\n\r\u{0}-\u{1f}]{0,40}"]) {
        let told = [hostile(&text)];
        let xml = junit::of(&told);
        let tags = ["?xml", "testsuite", "/testsuite", "propert", "/propert", "testcase", "/testcase", "failure type=\"", "/failure>", "skipped>", "/skipped>"];
        prop_assert!(xml.split('<').skip(1).all(|tag| tags.iter().any(|known| tag.starts_with(known))), "{}", xml);
        let entities = ["amp;", "lt;", "gt;", "quot;", "apos;"];
        prop_assert!(xml.split('&').skip(1).all(|entity| entities.iter().any(|known| entity.starts_with(known))));
        let is_no_xml = |c: char| c.is_control() && c != '\n' && c != '\t' || matches!(u32::from(c), 0xfffe | 0xffff);
        prop_assert!(!xml.contains(is_no_xml));
        // A CI may print its reports.
        prop_assert_eq!(danger(&xml), None);
        prop_assert_eq!(danger(&summary::of(&told)), None);
        for line in annotations::of(&told).into_iter().map(String::from) {
            prop_assert!(line.starts_with("::error ") && !line.contains(['\n', '\r']) && !line.contains("##["));
            let properties = line.trim_start_matches("::error ").split("::").next().unwrap_or_default();
            prop_assert!(properties.split(',').all(|one| ["file=", "line=", "title="].iter().any(|name| one.starts_with(name))), "{}", line);
        }
        prop_assert!(serde_json::from_str::<Value>(&quality::of(&told)).is_ok());
    }
}
