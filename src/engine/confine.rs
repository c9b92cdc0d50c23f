//! Keeps a sandbox within the limits of its plan, by what this machine offers: a cgroup of its own, one that systemd makes, or the
//! kernel's own counts. Says which limits do not hold, sums up what was used, and sees whether memory ran out.

use super::{Tools, memory};
use crate::{
    model::{Limits, PeakOf, Usage},
    plan::{Resources, SandboxSpec, Through, usual_tasks},
    sandbox::Verified,
    system::{
        cgroup::{Leaf, NotEnforced, Place, Scope, Used},
        logout::logout,
        oom::{Seen, Watch},
    },
};

/// What keeps one sandbox within its limits. Dropping it removes its cgroup.
pub(crate) struct Confinement {
    limits: Limits,
    leaf: Option<Leaf>,
    scope: Option<Scope>,
    usual: u32,
    // Why there is no cgroup, and what to type.
    reason: String,
    watch: Watch,
}

impl Confinement {
    /// Looks for the best that there is. `tools.on.build()` names the cgroup.
    pub(crate) fn find(limits: Limits, tools: Tools<'_>) -> Self {
        let place = Place::own();
        let name = tools.on.build();
        let usual = usual_tasks(tools.facts.cpus);
        // The kernel's own count never binds root.
        let wanted = Limits { tasks: limits.tasks.or((tools.facts.uid == 0).then_some(usual)), ..limits };
        let (mut leaf, mut reason) = match Leaf::make(&place, name.as_str(), &wanted) {
            Ok(leaf) => (Some(leaf), String::new()),
            Err(error) => (None, error.reason()),
        };
        let mut scope = None;
        let short = leaf.as_ref().is_none_or(|leaf| missing(leaf, &limits).next().is_some());
        // A scope of the user's systemd ends with the last session, unless the user lingers.
        let may_scope = !tools.outlives || logout().lingers;
        if !may_scope {
            reason += "; for builds that outlive the session:  loginctl enable-linger";
        }
        if limits != Limits::default()
            && short
            && may_scope
            && let Some(way) = Scope::find(&tools.facts, &tools.spawner)
            && let Ok(better) = Leaf::make(&way.place, name.as_str(), &limits)
        {
            (leaf, scope) = (Some(better), Some(way));
        }
        let watch = Watch::begin(&place, leaf.as_ref().map(|leaf| leaf.path().into()));
        Self { limits, leaf, scope, usual, reason, watch }
    }

    /// Tells the sandbox.
    pub(crate) fn apply(&self, spec: &mut SandboxSpec) {
        let lacks_tasks = |leaf: &Leaf| missing(leaf, &self.limits).any(|limit| limit.key == TASKS);
        spec.resources = Resources {
            cgroup: self.leaf.as_ref().map(|leaf| leaf.path().into()),
            through: self.scope.as_ref().map(|way| Through { argv: way.argv.clone(), env: way.env.clone() }),
            processes: self.limits.tasks.filter(|_| self.leaf.as_ref().is_none_or(lacks_tasks)),
            precaution: Some(self.usual),
        };
    }

    /// The limits that do not hold in a sandbox that runs, in words.
    pub(crate) fn shortfalls(&self, verified: &Verified) -> Vec<String> {
        let missing = match &self.leaf {
            Some(leaf) if verified.in_cgroup == Some(true) => missing(leaf, &self.limits).cloned().collect(),
            Some(leaf) => self.all(&format!("the sandbox could not enter {}", leaf.path().display())),
            None => self.all(&self.reason),
        };
        let by_kernel = verified.processes_limited == Some(true);
        let missing = missing.iter().filter(|limit| limit.key != TASKS || !by_kernel);
        missing.map(|NotEnforced { key, why }| format!("{key} {} is not enforced: {why}", self.value(key))).collect()
    }

    /// Everything that was asked for, for one reason. Processors are limited by affinity in any case.
    fn all(&self, why: &str) -> Vec<NotEnforced> {
        let keys = [(self.limits.memory.is_some(), "host.memory"), (self.limits.tasks.is_some(), TASKS)];
        let asked = keys.into_iter().filter(|(asked, _)| *asked);
        asked.map(|(_, key)| NotEnforced { key, why: why.into() }).collect()
    }

    fn value(&self, key: &str) -> String {
        match key {
            "host.memory" => self.limits.memory.map(memory::size).unwrap_or_default(),
            _ => self.limits.tasks.map(|tasks| tasks.to_string()).unwrap_or_default(),
        }
    }

    /// What was used: by the cgroup where it tells, else by what PID 1 saw, unless that was killed. Ends the confinement.
    pub(crate) fn finish(self, seen_by_init: Option<Usage>) -> (Option<Usage>, Seen) {
        let used = self.leaf.as_ref().map(Leaf::used).unwrap_or_default();
        // A leaf that the sandbox could not enter knows nothing.
        let used = if used.cpu_ms == Some(0) { Used::default() } else { used };
        let known = seen_by_init.is_some() || used != Used::default();
        let seen_by_init = seen_by_init.unwrap_or_default();
        let (peak_memory, peak_of) = match used.peak_memory {
            Some(peak) => (peak, PeakOf::Build),
            None => (seen_by_init.peak_memory, seen_by_init.peak_of),
        };
        let (read_bytes, written_bytes) = used.io.unwrap_or((seen_by_init.read_bytes, seen_by_init.written_bytes));
        let cpu_ms = used.cpu_ms.unwrap_or(seen_by_init.cpu_ms);
        let usage = Usage { cpu_ms, peak_memory, peak_of, read_bytes, written_bytes };
        (known.then_some(usage), self.watch.end())
    }
}

const TASKS: &str = "host.tasks";

/// What was asked for and does not hold there. A precaution that does not hold is not reported.
fn missing<'a>(leaf: &'a Leaf, limits: &Limits) -> impl Iterator<Item = &'a NotEnforced> + use<'a> {
    let tasks = limits.tasks.is_some();
    leaf.not_enforced().iter().filter(move |limit| tasks || limit.key != TASKS)
}
