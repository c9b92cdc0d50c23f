//! Counts gix's progress, from many places and threads; the waiting thread polls it.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use gix::{
    Count, NestedProgress, Progress,
    progress::{Id, MessageLevel, Step, StepShared, UNKNOWN, Unit},
};

/// The steps that are counted: objects found in the pack, and objects whose content has been resolved (`gix_pack::index::write`).
const STEPS: [Id; 2] = [*b"IWIO", *b"IWRO"];

/// All counters of one fetch.
#[derive(Clone, Default)]
pub(super) struct Counters(Arc<Mutex<Vec<Counted>>>);

struct Counted {
    id: Id,
    step: StepShared,
    max: Arc<AtomicUsize>,
}

impl Counters {
    /// The progress that is passed to gix.
    pub(super) fn node(&self) -> Node {
        self.add(UNKNOWN)
    }

    /// Objects that were received, then resolved: how many are done, and of how many.
    pub(super) fn objects(&self) -> (u64, Option<u64>) {
        // The counters are sound even if a thread panicked while it held the lock.
        let counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = 0;
        let mut total = 0;
        for one in counted.iter().filter(|one| STEPS.contains(&one.id)) {
            let max = one.max.load(Ordering::Relaxed);
            done += one.step.load(Ordering::Relaxed).min(max);
            // Each object counts twice: received and resolved.
            total = total.max(max * STEPS.len());
        }
        (done as u64, (total > 0).then_some(total as u64))
    }

    fn add(&self, id: Id) -> Node {
        let (step, max) = (StepShared::default(), Arc::new(AtomicUsize::new(0)));
        let counted = Counted { id, step: step.clone(), max: max.clone() };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(counted);
        Node { all: self.clone(), id, step, max }
    }
}

/// One counter.
pub(super) struct Node {
    all: Counters,
    id: Id,
    step: StepShared,
    max: Arc<AtomicUsize>,
}

impl Count for Node {
    fn set(&self, step: Step) {
        self.step.store(step, Ordering::Relaxed);
    }

    fn step(&self) -> Step {
        self.step.load(Ordering::Relaxed)
    }

    fn inc_by(&self, step: Step) {
        self.step.fetch_add(step, Ordering::Relaxed);
    }

    fn counter(&self) -> StepShared {
        self.step.clone()
    }
}

impl Progress for Node {
    fn init(&mut self, max: Option<Step>, _unit: Option<Unit>) {
        self.max.store(max.unwrap_or(0), Ordering::Relaxed);
    }

    fn set_name(&mut self, _name: String) {}

    fn name(&self) -> Option<String> {
        None
    }

    fn id(&self) -> Id {
        self.id
    }

    fn message(&self, _level: MessageLevel, _message: String) {}
}

impl NestedProgress for Node {
    type SubProgress = Self;

    fn add_child(&mut self, _name: impl Into<String>) -> Self {
        self.all.add(UNKNOWN)
    }

    fn add_child_with_id(&mut self, _name: impl Into<String>, id: Id) -> Self {
        self.all.add(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_received_and_then_resolved() {
        let counters = Counters::default();
        let mut root = counters.node();
        assert_eq!(counters.objects(), (0, None));
        let mut bytes = root.add_child_with_id("read pack", *b"BWRB");
        bytes.init(Some(9000), None);
        bytes.inc_by(5000);
        let mut received = root.add_child("indexing").add_child_with_id("objects", STEPS[0]);
        received.init(Some(100), None);
        received.set(40);
        assert_eq!(counters.objects(), (40, Some(200)));
        received.set(100);
        let mut resolved = root.add_child_with_id("resolve", STEPS[1]);
        resolved.init(Some(100), None);
        resolved.counter().fetch_add(100, Ordering::SeqCst);
        assert_eq!(counters.objects(), (200, Some(200)));
    }
}
