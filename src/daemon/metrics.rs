//! What the daemon counts, as OpenMetrics. Labels have few values each: states, results, methods; never a build, a project or a customer.

use std::time::Duration;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use super::webhooks::Attempt;
use crate::model::State;

/// The type that `/metrics` is served as.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Seconds of builds: from one that finds everything in sstate to one of a whole day.
const OF_BUILDS: [f64; 12] =
    [10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14_400.0, 28_800.0, 57_600.0, 86_400.0];
/// Seconds of answers.
const OF_RPCS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 30.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResult {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfMethod {
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfAnswer {
    method: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPlace {
    place: &'static str,
}

/// What is measured when it is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Present {
    /// Builds that wait.
    pub waiting: u64,
    /// The states of those that run.
    pub running: Vec<State>,
    /// Clients that follow a build.
    pub followers: u64,
    /// Bytes of what is kept: downloads, sstate, images, layers, artifacts.
    pub kept: Vec<(&'static str, u64)>,
    /// Bytes that are free on the disk of SMIDR_HOME.
    pub free: u64,
}

/// Tasks of a build that is over.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tasks {
    /// Those that ran and succeeded.
    pub succeeded: u64,
    /// Those that ran and failed.
    pub failed: u64,
    /// Those whose result came from sstate.
    pub from_sstate: u64,
    /// Those that had to run, although sstate could have had their result.
    pub not_in_sstate: u64,
}

/// All metrics of a daemon. Clones are the same.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: std::sync::Arc<Registry>,
    running: Family<OfState, Gauge>,
    waiting: Gauge,
    followers: Gauge,
    kept: Family<OfPlace, Gauge>,
    free: Gauge,
    ended: Family<OfState, Counter>,
    took: Family<OfState, Histogram>,
    waited: Histogram,
    tasks: Family<OfResult, Counter>,
    sstate: Family<OfResult, Counter>,
    rpcs: Family<OfAnswer, Counter>,
    latency: Family<OfMethod, Histogram>,
    webhooks: Family<OfResult, Counter>,
}

impl Metrics {
    /// All of them at zero.
    pub(crate) fn new() -> Self {
        let of_builds = || Histogram::new(OF_BUILDS);
        let mut all = Self {
            registry: std::sync::Arc::default(),
            running: Family::default(),
            waiting: Gauge::default(),
            followers: Gauge::default(),
            kept: Family::default(),
            free: Gauge::default(),
            ended: Family::default(),
            took: Family::new_with_constructor(of_builds),
            waited: of_builds(),
            tasks: Family::default(),
            sstate: Family::default(),
            rpcs: Family::default(),
            latency: Family::new_with_constructor(|| Histogram::new(OF_RPCS)),
            webhooks: Family::default(),
        };
        all.registry = std::sync::Arc::new(all.registered());
        all
    }

    fn registered(&self) -> Registry {
        let mut to = Registry::with_prefix("smidr");
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        to.register("daemon", "The daemon", version);
        to.register("builds_running", "Builds that run, by state", self.running.clone());
        to.register("builds_waiting", "Builds that wait for their turn", self.waiting.clone());
        to.register("followers", "Streams that are open: logs, events, downloads, uploads", self.followers.clone());
        to.register_with_unit("kept", "What is kept on the disk, by place", Unit::Bytes, self.kept.clone());
        to.register_with_unit("disk_free", "What is free on the disk of SMIDR_HOME", Unit::Bytes, self.free.clone());
        to.register("builds_ended", "Builds that are over, by state", self.ended.clone());
        to.register_with_unit("build_duration", "How long builds ran, by state", Unit::Seconds, self.took.clone());
        to.register_with_unit(
            "build_wait",
            "How long builds waited before they ran",
            Unit::Seconds,
            self.waited.clone(),
        );
        to.register("tasks", "Tasks of builds that are over, by result", self.tasks.clone());
        to.register("sstate", "Results that sstate had, and that it did not have", self.sstate.clone());
        to.register("rpcs", "Calls that were answered, by method and code", self.rpcs.clone());
        to.register_with_unit("rpc_duration", "How long answers took, by method", Unit::Seconds, self.latency.clone());
        to.register("webhook_attempts", "Attempts to deliver a webhook, by result", self.webhooks.clone());
        to
    }

    /// A build is over.
    pub(crate) fn ended(&self, state: State, waited: Duration, ran: Duration, tasks: Tasks) {
        let of_state = OfState { state: word(state) };
        self.ended.get_or_create(&of_state).inc();
        self.took.get_or_create(&of_state).observe(ran.as_secs_f64());
        self.waited.observe(waited.as_secs_f64());
        let count = |family: &Family<OfResult, Counter>, result, by| {
            family.get_or_create(&OfResult { result }).inc_by(by);
        };
        count(&self.tasks, "succeeded", tasks.succeeded);
        count(&self.tasks, "failed", tasks.failed);
        count(&self.sstate, "hit", tasks.from_sstate);
        count(&self.sstate, "miss", tasks.not_in_sstate);
    }

    /// A call was answered. `method` is one of the API's, or a word for all others: a path that a client has made up is no label.
    pub(crate) fn answered(&self, method: &'static str, code: &'static str, took: Duration) {
        self.rpcs.get_or_create(&OfAnswer { method, code }).inc();
        self.latency.get_or_create(&OfMethod { method }).observe(took.as_secs_f64());
    }

    /// A webhook was tried.
    pub(crate) fn sent(&self, attempt: Attempt) {
        let result = match attempt {
            Attempt::Delivered => "delivered",
            Attempt::Failed => "failed",
            Attempt::GivenUp => "given_up",
        };
        self.webhooks.get_or_create(&OfResult { result }).inc();
    }

    /// All of them as text, with what is measured now.
    pub(crate) fn render(&self, present: &Present) -> String {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        for state in [State::Preparing, State::Building, State::ExtractingArtifacts] {
            let count = present.running.iter().filter(|running| **running == state).count();
            self.running.get_or_create(&OfState { state: word(state) }).set(number(count as u64));
        }
        self.waiting.set(number(present.waiting));
        self.followers.set(number(present.followers));
        self.free.set(number(present.free));
        for (place, bytes) in &present.kept {
            self.kept.get_or_create(&OfPlace { place }).set(number(*bytes));
        }
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a String takes all text");
        text
    }
}

fn word(state: State) -> &'static str {
    match state {
        State::Queued => "queued",
        State::Preparing => "preparing",
        State::Building => "building",
        State::ExtractingArtifacts => "extracting_artifacts",
        State::Completed => "completed",
        State::Failed => "failed",
        State::Cancelled => "cancelled",
        State::Interrupted => "interrupted",
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        io::Write as _,
        process::{Command, Stdio},
    };

    use super::*;

    fn sample() -> String {
        let metrics = Metrics::new();
        let tasks = Tasks { succeeded: 3000, failed: 1, from_sstate: 900, not_in_sstate: 100 };
        metrics.ended(State::Failed, Duration::from_secs(5), Duration::from_secs(1200), tasks);
        metrics.answered("StartBuild", "OK", Duration::from_millis(3));
        metrics.answered("StartBuild", "INVALID_ARGUMENT", Duration::from_millis(1));
        metrics.sent(Attempt::Failed);
        let present = Present {
            waiting: 2,
            running: vec![State::Building, State::Building, State::Preparing],
            followers: 7,
            kept: vec![("sstate", 1 << 40)],
            free: u64::MAX,
        };
        metrics.render(&present);
        metrics.render(&present)
    }

    #[test]
    fn everything_is_there_once() {
        let text = sample();
        for line in [
            "smidr_builds_running{state=\"building\"} 2",
            "smidr_builds_running{state=\"extracting_artifacts\"} 0",
            "smidr_builds_waiting 2",
            "smidr_followers 7",
            "smidr_kept_bytes{place=\"sstate\"} 1099511627776",
            "smidr_builds_ended_total{state=\"failed\"} 1",
            "smidr_build_duration_seconds_bucket{le=\"1800.0\",state=\"failed\"} 1",
            "smidr_build_duration_seconds_bucket{le=\"600.0\",state=\"failed\"} 0",
            "smidr_build_wait_seconds_sum 5.0",
            "smidr_tasks_total{result=\"succeeded\"} 3000",
            "smidr_sstate_total{result=\"hit\"} 900",
            "smidr_rpcs_total{method=\"StartBuild\",code=\"INVALID_ARGUMENT\"} 1",
            "smidr_rpc_duration_seconds_count{method=\"StartBuild\"} 2",
            "smidr_webhook_attempts_total{result=\"failed\"} 1",
        ] {
            assert_eq!(text.lines().filter(|found| *found == line).count(), 1, "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    /// promtool reads the older format, in which names have their suffixes already, and an info is a gauge.
    fn older(text: &str) -> String {
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let suffix = |kind| match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let suffixes: HashMap<&str, &str> = types.map(|(name, kind)| (name, suffix(kind))).collect();
        let line = |line: &str| match line.split(' ').collect::<Vec<_>>().as_slice() {
            ["#", word, name, rest @ ..] => {
                let rest = rest.join(" ");
                format!("# {word} {name}{} {}\n", suffixes[name], if rest == "info" { "gauge" } else { &rest })
            }
            _ => format!("{line}\n"),
        };
        text.lines().filter(|line| !line.starts_with("# UNIT") && *line != "# EOF").map(line).collect()
    }

    #[test]
    fn promtool_finds_nothing_wrong() {
        let child = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            let test = "daemon::metrics::promtool_finds_nothing_wrong";
            return drop(writeln!(std::io::stderr(), "SKIP {test}: promtool is not installed"));
        };
        let text = older(&sample());
        child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("written");
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
    }
}
