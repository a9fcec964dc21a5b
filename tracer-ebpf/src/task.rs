//! Reads `task_struct` and what hangs off it.
//!
//! A [`Task`] is a pointer that the verifier knows as `PTR_TO_BTF_ID`: it comes from a tracepoint
//! argument or from another such pointer. Loads through it are plain instructions that the kernel
//! makes safe by its exception table (`BPF_PROBE_MEM`), so a stale or null pointer reads as zero.
//! The verifier checks each against the running kernel's BTF, because the offsets are constants to
//! it: they lie in frozen read-only data ("bpf: Track read-only map contents as known scalars in
//! BPF verifiers", v5.5).

use core::ptr;

use aya_ebpf::helpers::{bpf_get_current_task, generated::bpf_probe_read_kernel};
use tracer_common::{Offsets, Settings};

/// Field offsets of the running kernel, set at load.
#[unsafe(no_mangle)]
pub(crate) static OFFSETS: Offsets = Offsets {
    task_pid: 0,
    task_tgid: 0,
    task_flags: 0,
    task_start_boottime: 0,
    task_group_leader: 0,
    task_real_parent: 0,
    task_signal: 0,
    task_sighand: 0,
    task_exit_code: 0,
    task_exit_state: 0,
    task_exit_signal: 0,
    task_run_state: 0,
    task_children: 0,
    task_sibling: 0,
    task_thread_node: 0,
    task_comm: 0,
    task_mm: 0,
    task_thread_pid: 0,
    task_cgroups: 0,
    task_cred: 0,
    cred_uid: 0,
    cred_euid: 0,
    signal_live: 0,
    signal_nr_threads: 0,
    signal_thread_head: 0,
    signal_flags: 0,
    signal_group_exit_code: 0,
    sighand_sigchld_handler: 0,
    sighand_sigchld_flags: 0,
    css_set_dfl_cgrp: 0,
    cgroup_kn: 0,
    kernfs_node_id: 0,
    pid_level: 0,
    pid_numbers: 0,
    upid_nr: 0,
    upid_ns: 0,
    upid_size: 0,
    pid_namespace_inum: 0,
    mm_arg_start: 0,
    mm_arg_end: 0,
    mm_env_start: 0,
    mm_env_end: 0,
    binprm_filename: 0,
    siginfo_code: 0,
};

/// What the programs are told, set at load.
#[unsafe(no_mangle)]
pub(crate) static SETTINGS: Settings = Settings {
    pid_namespace: 0,
    tracer_pid: 0,
    exit_has_group_dead: 0,
    oom_has_pid: 0,
    hooks_repeat: 0,
    log: 0,
    whole_host: 0,
    reserved: 0,
};

/// `include/linux/sched/signal.h`: the group is exiting, no thread returns to user space.
const SIGNAL_GROUP_EXIT: u32 = 0x4;
/// `include/linux/sched.h`: the task is exiting.
const PF_EXITING: u32 = 0x4;

/// A value that user space replaces at load: opaque to the compiler, constant to the verifier.
#[inline(always)]
pub(crate) fn constant<T: Copy>(value: &'static T) -> T {
    // SAFETY: a reference is valid to read; volatile because its value is replaced at load.
    unsafe { ptr::read_volatile(value) }
}

/// Where a field lies.
macro_rules! offset {
    ($field:ident) => {
        crate::task::constant(&crate::task::OFFSETS.$field) as usize
    };
}
pub(crate) use offset;

/// What a setting says.
macro_rules! setting {
    ($field:ident) => {
        crate::task::constant(&crate::task::SETTINGS.$field)
    };
}
pub(crate) use setting;

/// Loads a field through a pointer that the verifier knows.
///
/// # Safety
/// `base` is a tracepoint's argument or was itself loaded this way, and a `T` lies at `offset`:
/// the verifier refuses the program otherwise.
#[inline(always)]
pub(crate) unsafe fn load<T: Copy>(base: *const u8, offset: usize) -> T {
    // SAFETY: see above; volatile keeps width and order as written.
    unsafe { ptr::read_volatile(base.add(offset).cast::<T>()) }
}

/// Reads a value at any kernel address; zeros where there is none.
///
/// The helper itself clears what it could not read (`bpf_probe_read_kernel_common()` in
/// `kernel/trace/bpf_trace.c`). Not looking at its result spares the verifier a branch at each of
/// these, which is the difference between a load time of milliseconds and of half a second.
#[inline(always)]
pub(crate) fn peek<T: Copy>(address: usize) -> T {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: `value` has room for a T, the helper checks the address, and it writes every byte.
    unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            address as *const core::ffi::c_void,
        );
        value.assume_init()
    }
}

/// A `task_struct`.
#[derive(Clone, Copy)]
pub(crate) struct Task(*const u8);

/// How a thread group ends.
#[derive(Clone, Copy)]
pub(crate) struct Ending {
    /// Threads that have not begun to exit.
    pub(crate) live: u32,
    flags: u32,
    group_exit_code: u32,
    leader_exit_code: u32,
}

impl Ending {
    /// Whether the group exits as a whole: no thread of it will wait for anyone again.
    #[inline(always)]
    pub(crate) fn is_whole_group(self) -> bool {
        self.flags & SIGNAL_GROUP_EXIT != 0
    }

    /// The status as `wait_task_zombie()` reports it (`kernel/exit.c`).
    #[inline(always)]
    pub(crate) fn status(self) -> u32 {
        if self.is_whole_group() { self.group_exit_code } else { self.leader_exit_code }
    }
}

/// A thread group: pid in the initial namespace and start, as in `tracer::lineage::ProcessId`.
#[derive(Clone, Copy)]
pub(crate) struct Group {
    pub(crate) pid: u32,
    pub(crate) start: u64,
}

/// Start and end each, in the address space of a task.
pub(crate) struct Strings {
    pub(crate) arguments: (u64, u64),
    pub(crate) environment: (u64, u64),
}

/// A task's pids in inner namespaces.
pub(crate) struct InnerPids {
    pub(crate) local: u32,
    pub(crate) innermost: u32,
    pub(crate) level: u32,
}

impl Task {
    /// # Safety
    /// `pointer` is a tracepoint argument of type `struct task_struct *`.
    #[inline(always)]
    pub(crate) unsafe fn new(pointer: *const u8) -> Self {
        Self(pointer)
    }

    #[inline(always)]
    pub(crate) fn pid(self) -> u32 {
        // SAFETY: a task_struct, see `new`.
        unsafe { load(self.0, offset!(task_pid)) }
    }

    #[inline(always)]
    pub(crate) fn tgid(self) -> u32 {
        // SAFETY: a task_struct, see `new`.
        unsafe { load(self.0, offset!(task_tgid)) }
    }

    #[inline(always)]
    pub(crate) fn start(self) -> u64 {
        // SAFETY: a task_struct, see `new`.
        unsafe { load(self.0, offset!(task_start_boottime)) }
    }

    #[inline(always)]
    pub(crate) fn leader(self) -> Self {
        // SAFETY: a task_struct, see `new`; the field points to another.
        Self(unsafe { load(self.0, offset!(task_group_leader)) })
    }

    #[inline(always)]
    pub(crate) fn real_parent(self) -> Self {
        // SAFETY: a task_struct, see `new`; the field points to another.
        Self(unsafe { load(self.0, offset!(task_real_parent)) })
    }

    /// Whether it runs in the kernel only.
    #[inline(always)]
    pub(crate) fn is_kernel_thread(self) -> bool {
        /// `include/linux/sched.h`
        const PF_KTHREAD: u32 = 0x0020_0000;
        // SAFETY: a task_struct, see `new`.
        let flags: u32 = unsafe { load(self.0, offset!(task_flags)) };
        flags & PF_KTHREAD != 0
    }

    /// Whether it has been released, that is, reaped (`__exit_signal()` in `kernel/exit.c`).
    #[inline(always)]
    pub(crate) fn is_released(self) -> bool {
        // SAFETY: a task_struct, see `new`.
        let sighand: *const u8 = unsafe { load(self.0, offset!(task_sighand)) };
        sighand.is_null()
    }

    /// Whether it has no child that it has not reaped.
    #[inline(always)]
    pub(crate) fn is_childless(self) -> bool {
        // SAFETY: a task_struct, see `new`; the first field of a `list_head` points to the next.
        let first: *const u8 = unsafe { load(self.0, offset!(task_children)) };
        first == self.0.wrapping_add(offset!(task_children))
    }

    /// The identity of the thread group it belongs to.
    #[inline(always)]
    pub(crate) fn group(self) -> Group {
        Group { pid: self.tgid(), start: self.leader().start() }
    }

    /// How its group ends; `leader` is its own leader.
    #[inline(always)]
    pub(crate) fn ending(self, leader: Self) -> Ending {
        // SAFETY: a task_struct, see `new`; a task at its exit tracepoint still has its signal.
        let signal: *const u8 = unsafe { load(self.0, offset!(task_signal)) };
        Ending {
            // SAFETY: a signal_struct, by the field's type.
            live: unsafe { load(signal, offset!(signal_live)) },
            // SAFETY: a signal_struct, by the field's type.
            flags: unsafe { load(signal, offset!(signal_flags)) },
            // SAFETY: a signal_struct, by the field's type.
            group_exit_code: unsafe { load(signal, offset!(signal_group_exit_code)) },
            // SAFETY: a task_struct, by the field's type.
            leader_exit_code: unsafe { load(leader.0, offset!(task_exit_code)) },
        }
    }

    /// Cgroup v2 id, as `bpf_get_current_cgroup_id()` computes it.
    #[inline(always)]
    pub(crate) fn cgroup(self) -> u64 {
        // SAFETY: a task_struct, see `new`.
        let set: *const u8 = unsafe { load(self.0, offset!(task_cgroups)) };
        // SAFETY: a css_set, by the field's type.
        let cgroup: *const u8 = unsafe { load(set, offset!(css_set_dfl_cgrp)) };
        // SAFETY: a cgroup, by the field's type.
        let node: *const u8 = unsafe { load(cgroup, offset!(cgroup_kn)) };
        // SAFETY: a kernfs_node, by the field's type.
        unsafe { load(node, offset!(kernfs_node_id)) }
    }

    /// Its real and effective user ids, as numbers of the initial user namespace (`kuid_t`).
    #[inline(always)]
    pub(crate) fn users(self) -> (u32, u32) {
        // SAFETY: a task_struct, see `new`.
        let cred: *const u8 = unsafe { load(self.0, offset!(task_cred)) };
        // SAFETY: a struct cred, by the field's type.
        let id = |offset| unsafe { load(cred, offset) };
        (id(offset!(cred_uid)), id(offset!(cred_euid)))
    }

    /// Where the strings of its arguments and of its environment lie in the task's address space.
    #[inline(always)]
    pub(crate) fn strings(self) -> Strings {
        // SAFETY: a task_struct, see `new`.
        let mm: *const u8 = unsafe { load(self.0, offset!(task_mm)) };
        // SAFETY: an mm_struct, by the field's type.
        let field = |offset| unsafe { load(mm, offset) };
        Strings {
            arguments: (field(offset!(mm_arg_start)), field(offset!(mm_arg_end))),
            environment: (field(offset!(mm_env_start)), field(offset!(mm_env_end))),
        }
    }

    /// Depth of its PID namespace; 0 is the initial one.
    #[inline(always)]
    pub(crate) fn level(self) -> u32 {
        // SAFETY: a task_struct, see `new`.
        let pid: *const u8 = unsafe { load(self.0, offset!(task_thread_pid)) };
        // SAFETY: a struct pid, by the field's type.
        unsafe { load(pid, offset!(pid_level)) }
    }

    /// Its pids below the initial namespace. `level` is its own [`Task::level`], `tracer_level`
    /// that of [`tracer_common::Control`].
    #[inline(always)]
    pub(crate) fn inner_pids(self, level: u32, tracer_level: u32) -> InnerPids {
        let host = self.tgid();
        if level == 0 {
            let local = if tracer_level <= 1 { host } else { 0 };
            return InnerPids { local, innermost: host, level };
        }
        let pid = self.leader_pid();
        let (innermost, _) = numbered(pid, level);
        let local = match tracer_level {
            0 | 1 => host,
            depth if depth - 1 <= level => {
                let (number, namespace) = numbered(pid, depth - 1);
                if namespace == setting!(pid_namespace) { number } else { 0 }
            }
            _ => 0,
        };
        InnerPids { local, innermost, level }
    }

    /// Its own id in its own PID namespace, of the thread and not of its group.
    #[inline(always)]
    pub(crate) fn inner_id(self) -> u32 {
        let pid: usize = peek(self.0 as usize + offset!(task_thread_pid));
        let level: u32 = peek(pid + offset!(pid_level));
        peek(pid + offset!(pid_numbers) + level as usize * offset!(upid_size) + offset!(upid_nr))
    }

    /// If this task belongs to the tracer: the depth of its PID namespace, plus 1.
    ///
    /// The tracer knows its pid and the inode of its namespace, but not how deep that lies. Its
    /// namespace is the innermost that it has a pid in (`task_active_pid_ns()`).
    #[inline(always)]
    pub(crate) fn tracer_level(self) -> Option<u32> {
        let level = self.leader().level();
        let (number, namespace) = numbered(self.leader_pid(), level);
        let is_tracer = namespace == setting!(pid_namespace) && number == setting!(tracer_pid);
        if is_tracer { Some(level + 1) } else { None }
    }

    /// Address of the leader's `struct pid`, as a number: the verifier does not add a variable to
    /// a pointer that it knows.
    #[inline(always)]
    fn leader_pid(self) -> usize {
        peek(self.leader().0 as usize + offset!(task_thread_pid))
    }
}

/// `pid->numbers[level]`: the number and the inode of its namespace; zeros where unreadable.
#[inline(always)]
fn numbered(pid: usize, level: u32) -> (u32, u32) {
    let entry = pid + offset!(pid_numbers) + level as usize * offset!(upid_size);
    let namespace: usize = peek(entry + offset!(upid_ns));
    (peek(entry + offset!(upid_nr)), peek(namespace + offset!(pid_namespace_inum)))
}

/// The number of a `struct pid` in the initial namespace.
#[inline(always)]
pub(crate) fn pid_number(pid: *const u8) -> u32 {
    peek(pid as usize + offset!(pid_numbers) + offset!(upid_nr))
}

/// `task->children`, the processes that this thread has not reaped: a list of `sibling`s.
pub(crate) struct Children {
    /// Address of the list's head.
    pub(crate) head: usize,
    /// Address of the first node; the head's where there is none.
    pub(crate) next: usize,
}

impl Children {
    /// The children of the running task, in order of age. Addresses are numbers, not pointers
    /// that the verifier knows, to be arguments of a global function.
    #[inline(always)]
    pub(crate) fn of_current() -> Self {
        Self::of(PlainTask::current())
    }

    /// The children of this thread. Of another than the running one the list may change under the
    /// walk: a node may then lead into the list of whoever has that child now.
    #[inline(always)]
    pub(crate) fn of(thread: PlainTask) -> Self {
        let head = thread.0 + offset!(task_children);
        Self { head, next: peek(head) }
    }
}

/// `signal->thread_head`, the threads of the running task's group that have not been released: a
/// list of `thread_node`s, the running one among them.
pub(crate) struct Threads {
    /// Address of the list's head.
    pub(crate) head: usize,
    /// Address of the first node.
    pub(crate) next: usize,
}

impl Threads {
    #[inline(always)]
    pub(crate) fn of_current() -> Self {
        let signal: usize = PlainTask::current().read(offset!(task_signal));
        let head = signal + offset!(signal_thread_head);
        Self { head, next: peek(head) }
    }
}

/// A `task_struct` behind a plain address, read through a helper that checks it: for tasks that
/// no typed pointer leads to. `bpf_get_current_task_btf()` gives one only from 5.11 on.
#[derive(Clone, Copy)]
pub(crate) struct PlainTask(usize);

impl PlainTask {
    /// The running task.
    #[inline(always)]
    pub(crate) fn current() -> Self {
        // SAFETY: no argument, no failure.
        Self(unsafe { bpf_get_current_task() } as usize)
    }

    /// The task whose `sibling` lies at this address, and the address of the next one's.
    #[inline(always)]
    pub(crate) fn from_sibling(node: usize) -> (Self, usize) {
        let task = Self(node.wrapping_sub(offset!(task_sibling)));
        (task, peek(node))
    }

    /// The task whose `thread_node` lies at this address, and the address of the next one's.
    #[inline(always)]
    pub(crate) fn from_thread_node(node: usize) -> (Self, usize) {
        let task = Self(node.wrapping_sub(offset!(task_thread_node)));
        (task, peek(node))
    }

    #[inline(always)]
    fn read<T: Copy>(self, offset: usize) -> T {
        peek(self.0 + offset)
    }

    #[inline(always)]
    fn leader(self) -> Self {
        Self(self.read(offset!(task_group_leader)))
    }

    #[inline(always)]
    pub(crate) fn tgid(self) -> u32 {
        self.read(offset!(task_tgid))
    }

    #[inline(always)]
    pub(crate) fn start(self) -> u64 {
        self.read(offset!(task_start_boottime))
    }

    /// The thread group that it is a child of.
    #[inline(always)]
    pub(crate) fn parent_tgid(self) -> u32 {
        Self(self.read(offset!(task_real_parent))).tgid()
    }

    /// `task->exit_state`.
    #[inline(always)]
    pub(crate) fn exit_state(self) -> u32 {
        self.read(offset!(task_exit_state))
    }

    #[inline(always)]
    pub(crate) fn is_exiting(self) -> bool {
        self.read::<u32>(offset!(task_flags)) & PF_EXITING != 0
    }

    /// Whether it has run for the last time (`do_task_dead()` in `kernel/sched/core.c`): its
    /// [`PlainTask::exit_state`] is then what `exit_notify()` left.
    #[inline(always)]
    pub(crate) fn has_stopped(self) -> bool {
        /// `include/linux/sched.h`
        const TASK_DEAD: u32 = 0x80;
        self.read::<u32>(offset!(task_run_state)) & TASK_DEAD != 0
    }

    /// Threads of its group that have not been released.
    #[inline(always)]
    pub(crate) fn threads(self) -> u32 {
        let signal: usize = self.read(offset!(task_signal));
        peek(signal + offset!(signal_nr_threads))
    }

    /// The signal that its parent gets at its end.
    #[inline(always)]
    pub(crate) fn exit_signal(self) -> u32 {
        self.read(offset!(task_exit_signal))
    }

    /// Whether children of this one that end with SIGCHLD are reaped as they die
    /// (`do_notify_parent()` in `kernel/signal.c`).
    #[inline(always)]
    pub(crate) fn ignores_sigchld(self) -> bool {
        /// `include/uapi/asm-generic/signal-defs.h`
        const SIG_IGN: u64 = 1;
        /// `arch/*/include/uapi/asm/signal.h`
        const SA_NOCLDWAIT: u64 = 2;
        let actions: usize = self.read(offset!(task_sighand));
        peek::<u64>(actions + offset!(sighand_sigchld_handler)) == SIG_IGN
            || peek::<u64>(actions + offset!(sighand_sigchld_flags)) & SA_NOCLDWAIT != 0
    }

    /// The identity of the thread group it belongs to.
    #[inline(always)]
    pub(crate) fn group(self) -> Group {
        Group { pid: self.tgid(), start: self.leader().start() }
    }

    /// The leader thread's name, NUL-padded.
    #[inline(always)]
    pub(crate) fn leader_name(self) -> [u8; 16] {
        self.leader().read(offset!(task_comm))
    }
}
