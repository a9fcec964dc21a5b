//! The core alone: events a second, whether an event's cost stays the same as the table grows, and
//! what a live process weighs.
//!
//! ```text
//! cargo bench --package tracer --bench core
//! cargo bench --package tracer --bench core -- --test    # each once: that it runs
//! ```
//!
//! Synthetic histories, no kernel:
//!
//! - `deep`: each process forks the next; all live.
//! - `wide`: one process forks all others; all live.
//! - `churn`: processes come, execute, end and are reaped beside so many that live.
//!
//! Prints `bytes a live process` for each size; memory is counted by the allocator, to the byte.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    hint::black_box,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
    measurement::WallTime,
};
use tracer::lineage::{Config, Event, Lineage, Nanos, Pids, ProcessId};

/// Counts what is allocated.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes everything on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Live processes: a small run, a host at its usual `pid_max`, and far more than any has.
const SIZES: [u32; 3] = [1_000, 32_768, 1_000_000];

/// Events that one measurement of `churn` takes in, at least: ten in all make ten million.
const EVENTS: u32 = 1_000_000;

/// Events in the life of a process of `churn`: fork, exec, exit, reaped.
const EVENTS_A_LIFE: u32 = 4;

const ROOT: u32 = 10;

fn id(pid: u32) -> ProcessId {
    ProcessId { pid, start: u64::from(pid) * 1000 }
}

/// A core, fed with a history.
struct History {
    core: Lineage,
    now: u64,
}

impl History {
    fn new() -> Self {
        let mut history = Self { core: Lineage::new(Config::default()), now: 10_000 };
        history.fork(1, ROOT);
        history
    }

    fn tell(&mut self, event: Event<'_>) {
        self.core.handle(event);
        self.now += 1000;
    }

    fn fork(&mut self, forker: u32, pid: u32) {
        let pids = Pids { host: pid, local: Some(pid), namespace: pid, level: 0 };
        let (at, child, forker) = (Nanos(self.now), id(pid), id(forker));
        let root = pid == ROOT;
        self.tell(Event::Fork {
            at,
            child,
            forker,
            parent: forker,
            pids,
            cgroup: None,
            thread: None,
            root,
        });
    }

    /// A whole life of [`EVENTS_A_LIFE`] events, reaped at once.
    fn live(&mut self, pid: u32) {
        let (process, parent) = (id(pid), id(ROOT));
        let args = b"/usr/bin/job\0--number\0seven\0";
        self.fork(ROOT, pid);
        let at = Nanos(self.now);
        self.tell(Event::Exec {
            at,
            process,
            exe: b"/usr/bin/job",
            args,
            truncated: false,
            markers: b"",
            markers_truncated: false,
            uid: None,
        });
        let at = Nanos(self.now);
        self.tell(Event::Exit { at, process, status: 0, parent, children_uncounted: false });
        let at = Nanos(self.now);
        self.tell(Event::Reaped { at, process, by: None, gone: true });
    }

    /// Each process forks the next.
    fn deep(size: u32) -> Self {
        let mut history = Self::new();
        (ROOT..ROOT + size).for_each(|pid| history.fork(pid, pid + 1));
        history
    }

    /// One process forks all others.
    fn wide(size: u32) -> Self {
        let mut history = Self::new();
        (ROOT..ROOT + size).for_each(|pid| history.fork(ROOT, pid + 1));
        history
    }
}

/// A shape with its size, as many times as criterion asks; dropping is not measured.
fn growth(group: &mut BenchmarkGroup<'_, WallTime>, shape: &str, make: fn(u32) -> History) {
    for size in SIZES {
        let before = ALLOCATED.load(Ordering::Relaxed);
        let history = make(size);
        let bytes = ALLOCATED.load(Ordering::Relaxed) - before;
        drop(history);
        println!("core/{shape}/{size}: {} bytes a live process", bytes / size as usize);
        group.throughput(Throughput::Elements(u64::from(size)));
        group.bench_function(BenchmarkId::new(shape, size), |bencher| {
            bencher.iter_custom(|times| {
                (0..times).fold(Duration::ZERO, |spent, _| {
                    let begin = Instant::now();
                    let history = black_box(make(size));
                    let spent = spent + begin.elapsed();
                    drop(history);
                    spent
                })
            });
        });
    }
}

fn churn(group: &mut BenchmarkGroup<'_, WallTime>) {
    for size in SIZES {
        let mut history = History::wide(size);
        let mut pid = ROOT + size;
        group.throughput(Throughput::Elements(u64::from(EVENTS)));
        group.bench_function(BenchmarkId::new("churn", size), |bencher| {
            bencher.iter(|| {
                for _ in 0..EVENTS / EVENTS_A_LIFE {
                    pid += 1;
                    history.live(pid);
                }
            });
        });
    }
}

fn core(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("core");
    // Each takes long: few samples, and no warming up beyond the first.
    group.sample_size(10).warm_up_time(Duration::from_millis(1));
    group.measurement_time(Duration::from_millis(100));
    growth(&mut group, "deep", History::deep);
    growth(&mut group, "wide", History::wide);
    churn(&mut group);
    group.finish();
}

criterion_group!(benches, core);
criterion_main!(benches);
