//! Globals that user space sets before the programs are loaded, and the counters they keep.

/// Where the fields that the programs read lie in the running kernel's structures, in bytes.
/// rustc emits no CO-RE relocations, so user space looks them up in the kernel's BTF.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// `task_struct.pid`
    pub task_pid: u64,
    /// `task_struct.tgid`
    pub task_tgid: u64,
    /// `task_struct.flags`
    pub task_flags: u64,
    /// `task_struct.start_boottime`
    pub task_start_boottime: u64,
    /// `task_struct.group_leader`
    pub task_group_leader: u64,
    /// `task_struct.real_parent`
    pub task_real_parent: u64,
    /// `task_struct.signal`
    pub task_signal: u64,
    /// `task_struct.sighand`
    pub task_sighand: u64,
    /// `task_struct.exit_code`
    pub task_exit_code: u64,
    /// `task_struct.exit_state`
    pub task_exit_state: u64,
    /// `task_struct.exit_signal`
    pub task_exit_signal: u64,
    /// `task_struct.__state`, up to 5.13 `state`
    pub task_run_state: u64,
    /// `task_struct.children`
    pub task_children: u64,
    /// `task_struct.sibling`
    pub task_sibling: u64,
    /// `task_struct.thread_node`
    pub task_thread_node: u64,
    /// `task_struct.comm`
    pub task_comm: u64,
    /// `task_struct.mm`
    pub task_mm: u64,
    /// `task_struct.thread_pid`
    pub task_thread_pid: u64,
    /// `task_struct.cgroups`
    pub task_cgroups: u64,
    /// `task_struct.cred`
    pub task_cred: u64,
    /// `cred.uid`
    pub cred_uid: u64,
    /// `cred.euid`
    pub cred_euid: u64,
    /// `signal_struct.live`
    pub signal_live: u64,
    /// `signal_struct.nr_threads`
    pub signal_nr_threads: u64,
    /// `signal_struct.thread_head`
    pub signal_thread_head: u64,
    /// `signal_struct.flags`
    pub signal_flags: u64,
    /// `signal_struct.group_exit_code`
    pub signal_group_exit_code: u64,
    /// `sighand_struct.action[SIGCHLD - 1].sa.sa_handler`
    pub sighand_sigchld_handler: u64,
    /// `sighand_struct.action[SIGCHLD - 1].sa.sa_flags`
    pub sighand_sigchld_flags: u64,
    /// `css_set.dfl_cgrp`
    pub css_set_dfl_cgrp: u64,
    /// `cgroup.kn`
    pub cgroup_kn: u64,
    /// `kernfs_node.id`
    pub kernfs_node_id: u64,
    /// `pid.level`
    pub pid_level: u64,
    /// `pid.numbers`
    pub pid_numbers: u64,
    /// `upid.nr`
    pub upid_nr: u64,
    /// `upid.ns`
    pub upid_ns: u64,
    /// `sizeof(struct upid)`
    pub upid_size: u64,
    /// `pid_namespace.ns.inum`
    pub pid_namespace_inum: u64,
    /// `mm_struct.arg_start`
    pub mm_arg_start: u64,
    /// `mm_struct.arg_end`
    pub mm_arg_end: u64,
    /// `mm_struct.env_start`
    pub mm_env_start: u64,
    /// `mm_struct.env_end`
    pub mm_env_end: u64,
    /// `linux_binprm.filename`
    pub binprm_filename: u64,
    /// `kernel_siginfo.si_code`
    pub siginfo_code: u64,
}

/// Where the fields lie that lead from an open file to a socket, bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOffsets {
    /// `file.f_inode`
    pub file_inode: u64,
    /// `file.private_data`
    pub file_private_data: u64,
    /// `inode.i_mode`
    pub inode_mode: u64,
    /// `socket.file`
    pub socket_file: u64,
    /// `socket.sk`
    pub socket_sk: u64,
    /// `sock.sk_protocol`
    pub sock_protocol: u64,
    /// `sock_common.skc_family`
    pub common_family: u64,
    /// `sock_common.skc_state`
    pub common_state: u64,
    /// `sock_common.skc_num`
    pub common_num: u64,
    /// `sock_common.skc_rcv_saddr`
    pub common_address: u64,
    /// `sock_common.skc_v6_rcv_saddr`; 0 where the kernel has no IPv6.
    pub common_v6_address: u64,
}

/// What the programs are told once, at load.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Inode number of the tracer's PID namespace.
    pub pid_namespace: u32,
    /// The tracer's thread group id in that namespace: forks by it, while [`Control::armed`],
    /// make roots.
    pub tracer_pid: u32,
    /// 1 where the exit tracepoint's second argument says whether the group is dead (6.16+).
    pub exit_has_group_dead: u32,
    /// 1 where `mark_victim`'s first argument is a pid instead of a task (5.10).
    pub oom_has_pid: u32,
    /// 1 where the hooks of tracepoints may be preempted (after 6.18) and every vital one comes thrice.
    pub hooks_repeat: u32,
    /// 1 to log diagnostics through aya-log.
    pub log: u32,
    /// 1 to follow every process of the host, and to tell of those that belong to an invocation.
    pub whole_host: u32,
    /// Zero.
    pub reserved: u32,
}

/// Most names of environment variables that are looked for.
pub const MARKER_NAMES: u32 = 64;
/// Most bytes of such a name, with the `=` behind it.
pub const MARKER_NAME_LEN: usize = 40;

/// The name of an environment variable that is taken at exec: a marker of an agent or of a tool
/// call. All others stay where they are: an environment holds secrets.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MarkerName {
    /// The name and `=`, zeros behind.
    pub name: [u64; MARKER_NAME_LEN / 8],
    /// Ones over these bytes. All zero: no name, and none after it.
    pub mask: [u64; MARKER_NAME_LEN / 8],
}

impl MarkerName {
    /// Of a name without its `=`; `None` if it is empty or too long.
    pub fn new(name: &[u8]) -> Option<Self> {
        if name.is_empty() || name.len() >= MARKER_NAME_LEN {
            return None;
        }
        let (mut bytes, mut mask) = ([0; MARKER_NAME_LEN], [0; MARKER_NAME_LEN]);
        bytes[..name.len()].copy_from_slice(name);
        bytes[name.len()] = b'=';
        mask[..=name.len()].fill(0xff);
        let words = |bytes: [u8; MARKER_NAME_LEN]| {
            let mut words = [0; MARKER_NAME_LEN / 8];
            for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
                let mut eight = [0; 8];
                eight.copy_from_slice(bytes);
                *word = u64::from_ne_bytes(eight);
            }
            words
        };
        Some(Self { name: words(bytes), mask: words(mask) })
    }
}

/// Which first four bytes of an environment variable a marker's name may have: a bit for each hash
/// of them. Most variables are none, and are left at that.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MarkerFilter {
    /// 256 bits.
    pub bits: [u64; 4],
}

impl MarkerFilter {
    /// Lets variables of this name through. Shorter ones than three bytes, whose first four have
    /// some of the value, cannot be.
    pub fn admit(&mut self, name: &[u8]) -> bool {
        let mut first = [0; 4];
        for (at, byte) in first.iter_mut().zip(name.iter().chain(b"=")) {
            *at = *byte;
        }
        if name.len() < 3 {
            return false;
        }
        let (word, bit) = Self::place(u32::from_ne_bytes(first));
        self.bits[word as usize] |= bit;
        true
    }

    /// Word and bit of the first four bytes.
    #[inline(always)]
    pub fn place(first: u32) -> (u32, u64) {
        // Knuth's multiplicative hash: the highest bits depend on all.
        let hash = first.wrapping_mul(0x9e37_79b1) >> 24;
        (hash >> 6, 1 << (hash & 63))
    }
}

/// What user space and the programs change while they run.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// Not 0: the tracer's next fork makes the root of the invocation with this number.
    pub armed: u32,
    /// Depth of the tracer's PID namespace, plus 1; 0 until the programs have seen the tracer.
    pub tracer_level: u32,
    /// What a run of the snapshot's program is to do: a [`Snapshot`].
    pub snapshot: u32,
    /// See [`Settings::pid_namespace`]. For whoever takes over what is pinned: settings are constants of
    /// the programs.
    pub pid_namespace: u32,
    /// Digest of the variables that the programs look for, likewise.
    pub markers: u64,
    /// How many bytes of the ring buffer user space has dealt with: less than it has read, for a moment.
    pub processed: u64,
    /// Records that did not fit the ring, as far as user space has made up for that.
    pub dropped: u64,
    /// Those of processes that a dying parent had not reaped among them.
    pub dropped_unreaped: u64,
    /// Those of forks among them.
    pub dropped_forks: u64,
    /// The same of updates that failed, and of events that no program was run for.
    pub failed: u64,
    /// The last number that an invocation of the whole host was given.
    pub last_invocation: u32,
    /// 0.
    pub padding: u32,
}

/// What is pinned is of this version. To be raised with every change of what the programs share with
/// each other and with user space, in layout or in meaning: whoever finds another replaces it.
pub const PIN_VERSION: u32 = 3;

/// Steps of the snapshot: what its program does with each process that is there.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Snapshot {
    /// Find the tracer, to know how deep its PID namespace lies. Before any hook is attached.
    FindTracer = 1,
    /// Enter those that no hook has entered.
    Enter = 2,
    /// Count each among the children of its forker, unless it is.
    HoldForkers = 3,
}

/// What the programs count, each per CPU.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counter {
    /// Records of kind `n` that did not fit the ring are counted at `n`, so 1 to 8.
    FirstDrop = 1,
    /// A process could not be entered into `PROCS`.
    InsertFailed = 16,
    /// An entry of `PROCS` could not be removed.
    RemoveFailed = 17,
    /// Processes that were entered, of an invocation.
    Tracked = 18,
    /// Forks that a hook's further programs took in, where it has such: those before missed them, or
    /// left them to it.
    ForkMadeUp = 19,
    /// Forks that a program left to the next, because it could not enter the process.
    ForkLeft = 20,
    /// Deaths that further programs took in.
    ExitMadeUp = 21,
    /// Frees that further programs took in.
    FreeMadeUp = 22,
}

/// Length of the counters' array.
pub const COUNTERS: u32 = 32;
