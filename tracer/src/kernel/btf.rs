//! The running kernel's type information, read for what CO-RE would have done: where the fields
//! lie that the kernel programs read, and how many arguments a tracepoint has.
//!
//! Format: `Documentation/bpf/btf.rst`. Held only while loading: 5 MB and more.

use std::{fs, path::Path};

use thiserror::Error;
use tracer_common::{Offsets, SocketOffsets};

/// Where the kernel shows its BTF.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const KIND_INT: u32 = 1;
const KIND_PTR: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;

/// Why the kernel's types could not be used.
#[derive(Debug, Error)]
pub enum BtfError {
    /// The file is not there or cannot be read.
    #[error("read the kernel's type information from {KERNEL_BTF}: {0}")]
    Read(#[source] std::io::Error),
    /// The bytes are not BTF.
    #[error("parse {KERNEL_BTF}: {what} at byte {offset}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
        /// Where.
        offset: usize,
    },
    /// A structure or function that tracer needs is not there.
    #[error("find {name} in the types of this kernel")]
    NoType {
        /// Its name.
        name: &'static str,
    },
    /// A field that tracer needs is not there.
    #[error("find field {field} of struct {name} in the types of this kernel")]
    NoField {
        /// Name of the structure.
        name: &'static str,
        /// Name of the field.
        field: &'static str,
    },
}

/// A kernel's types.
pub struct KernelBtf {
    data: Vec<u8>,
    /// Byte offset of each type, by id; 0 is `void`.
    types: Vec<u32>,
    strings: usize,
}

impl std::fmt::Debug for KernelBtf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { data, types, strings: _ } = self;
        f.debug_struct("KernelBtf")
            .field("bytes", &data.len())
            .field("types", &types.len())
            .finish_non_exhaustive()
    }
}

/// One type's header.
#[derive(Clone, Copy)]
struct Type {
    /// Where its members begin.
    body: usize,
    name: u32,
    kind: u32,
    members: u32,
    /// Bitfield sizes stand in the members' offsets.
    bitfields: bool,
    /// Size in bytes, or id of another type, by kind.
    size_or_type: u32,
}

impl KernelBtf {
    /// Reads the running kernel's.
    ///
    /// # Errors
    /// The file is missing (`CONFIG_DEBUG_INFO_BTF`), or not BTF.
    pub fn of_running_kernel() -> Result<Self, BtfError> {
        Self::parse(fs::read(Path::new(KERNEL_BTF)).map_err(BtfError::Read)?)
    }

    /// Indexes BTF of this machine's byte order.
    ///
    /// # Errors
    /// The bytes are not BTF.
    pub fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        let bad = |what, offset| BtfError::Malformed { what, offset };
        if word(&data, 0).map(|word| word & 0xffff) != Some(u32::from(MAGIC)) {
            return Err(bad("no magic number", 0));
        }
        let field = |offset| word(&data, offset).ok_or(bad("truncated header", offset));
        let header = field(4)? as usize;
        let (type_off, type_len) = (field(8)? as usize, field(12)? as usize);
        let strings = header + field(16)? as usize;
        let mut at = header + type_off;
        let end = at + type_len;
        let mut this = Self { data, types: vec![0], strings };
        while at < end {
            this.types.push(u32::try_from(at).map_err(|_| bad("file too large", at))?);
            let header = this.header(at).ok_or(bad("truncated type", at))?;
            at = header.body + body_len(header).ok_or(bad("unknown kind of type", at))?;
        }
        Ok(this)
    }

    /// The bytes, for other readers of the same types.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// Every offset that the kernel programs need.
    ///
    /// # Errors
    /// A structure or field is missing, named in the error.
    pub fn offsets(&self) -> Result<Offsets, BtfError> {
        /// Actions stand in an array by signal number, from 1 on; SIGCHLD is 17 on every
        /// architecture that tracer knows.
        const SIGCHLD_INDEX: u64 = 16;
        let task = self.structure("task_struct")?;
        let signal = self.structure("signal_struct")?;
        let actions = self.structure("k_sigaction")?;
        let action = self.structure("sigaction")?;
        let sigchld = self.structure("sighand_struct")?.field("action")?
            + SIGCHLD_INDEX * u64::from(actions.header.size_or_type)
            + actions.field("sa")?;
        let mm = self.structure("mm_struct")?;
        let cred = self.structure("cred")?;
        let pid = self.structure("pid")?;
        let upid = self.structure("upid")?;
        let namespace = self.structure("pid_namespace")?;
        Ok(Offsets {
            task_pid: task.field("pid")?,
            task_tgid: task.field("tgid")?,
            task_flags: task.field("flags")?,
            task_start_boottime: task.field("start_boottime")?,
            task_group_leader: task.field("group_leader")?,
            task_real_parent: task.field("real_parent")?,
            task_signal: task.field("signal")?,
            task_sighand: task.field("sighand")?,
            task_exit_code: task.field("exit_code")?,
            task_exit_state: task.field("exit_state")?,
            task_exit_signal: task.field("exit_signal")?,
            // Renamed in 5.14.
            task_run_state: task.field("__state").or_else(|_| task.field("state"))?,
            task_children: task.field("children")?,
            task_sibling: task.field("sibling")?,
            task_thread_node: task.field("thread_node")?,
            task_comm: task.field("comm")?,
            task_mm: task.field("mm")?,
            task_thread_pid: task.field("thread_pid")?,
            task_cgroups: task.field("cgroups")?,
            task_cred: task.field("cred")?,
            cred_uid: cred.field("uid")?,
            cred_euid: cred.field("euid")?,
            signal_live: signal.field("live")?,
            signal_nr_threads: signal.field("nr_threads")?,
            signal_thread_head: signal.field("thread_head")?,
            signal_flags: signal.field("flags")?,
            signal_group_exit_code: signal.field("group_exit_code")?,
            sighand_sigchld_handler: sigchld + action.field("sa_handler")?,
            sighand_sigchld_flags: sigchld + action.field("sa_flags")?,
            css_set_dfl_cgrp: self.structure("css_set")?.field("dfl_cgrp")?,
            cgroup_kn: self.structure("cgroup")?.field("kn")?,
            kernfs_node_id: self.structure("kernfs_node")?.field("id")?,
            pid_level: pid.field("level")?,
            pid_numbers: pid.field("numbers")?,
            upid_nr: upid.field("nr")?,
            upid_ns: upid.field("ns")?,
            upid_size: u64::from(upid.header.size_or_type),
            pid_namespace_inum: namespace.field("ns")?
                + self.structure("ns_common")?.field("inum")?,
            mm_arg_start: mm.field("arg_start")?,
            mm_arg_end: mm.field("arg_end")?,
            mm_env_start: mm.field("env_start")?,
            mm_env_end: mm.field("env_end")?,
            binprm_filename: self.structure("linux_binprm")?.field("filename")?,
            siginfo_code: self.structure("kernel_siginfo")?.field("si_code")?,
        })
    }

    /// Where the fields lie that lead from an open file to a socket.
    ///
    /// # Errors
    /// A structure or field is missing, named in the error.
    pub fn socket_offsets(&self) -> Result<SocketOffsets, BtfError> {
        let file = self.structure("file")?;
        let socket = self.structure("socket")?;
        let common = self.structure("sock_common")?;
        Ok(SocketOffsets {
            file_inode: file.field("f_inode")?,
            file_private_data: file.field("private_data")?,
            inode_mode: self.structure("inode")?.field("i_mode")?,
            socket_file: socket.field("file")?,
            socket_sk: socket.field("sk")?,
            sock_protocol: self.structure("sock")?.field("sk_protocol")?,
            common_family: common.field("skc_family")?,
            common_state: common.field("skc_state")?,
            common_num: common.field("skc_num")?,
            common_address: common.field("skc_rcv_saddr")?,
            // CONFIG_IPV6
            common_v6_address: common.field("skc_v6_rcv_saddr").unwrap_or(0),
        })
    }

    /// Arguments of a BTF tracepoint, without the data pointer that comes first: for each,
    /// whether it is a pointer.
    ///
    /// # Errors
    /// This kernel has no such tracepoint.
    pub fn tracepoint_arguments(&self, typedef: &'static str) -> Result<Vec<bool>, BtfError> {
        let missing = BtfError::NoType { name: typedef };
        let (_, header) =
            self.find(KIND_TYPEDEF, typedef).ok_or(BtfError::NoType { name: typedef })?;
        let pointer = self.by_id(header.size_or_type).filter(|header| header.kind == KIND_PTR);
        let prototype = pointer
            .and_then(|pointer| self.by_id(pointer.size_or_type))
            .filter(|header| header.kind == KIND_FUNC_PROTO)
            .ok_or(missing)?;
        let arguments = (1..prototype.members as usize).map(|index| {
            let id = word(&self.data, prototype.body + index * 8 + 4);
            id.and_then(|id| self.by_id(self.without_qualifiers(id)))
                .is_some_and(|header| header.kind == KIND_PTR)
        });
        Ok(arguments.collect())
    }

    /// Id of a function; `None`: this kernel has none of that name, or does not tell of it.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<u32> {
        self.find(KIND_FUNC, name).map(|(id, _)| id)
    }

    fn structure(&self, name: &'static str) -> Result<Structure<'_>, BtfError> {
        let (_, header) = self.find(KIND_STRUCT, name).ok_or(BtfError::NoType { name })?;
        Ok(Structure { btf: self, name, header })
    }

    fn find(&self, kind: u32, name: &str) -> Option<(u32, Type)> {
        self.types.iter().enumerate().skip(1).find_map(|(id, &at)| {
            let header = self.header(at as usize)?;
            (header.kind == kind && self.string(header.name) == name.as_bytes())
                .then_some((u32::try_from(id).ok()?, header))
        })
    }

    fn by_id(&self, id: u32) -> Option<Type> {
        let &at = self.types.get(id as usize).filter(|&&at| at != 0)?;
        self.header(at as usize)
    }

    fn without_qualifiers(&self, mut id: u32) -> u32 {
        const QUALIFIERS: [u32; 5] =
            [KIND_TYPEDEF, KIND_VOLATILE, KIND_CONST, KIND_RESTRICT, KIND_TYPE_TAG];
        // A chain of qualifiers is short; a cycle would be damage.
        for _ in 0..32 {
            match self.by_id(id) {
                Some(header) if QUALIFIERS.contains(&header.kind) => id = header.size_or_type,
                _ => break,
            }
        }
        id
    }

    fn header(&self, at: usize) -> Option<Type> {
        let info = word(&self.data, at + 4)?;
        Some(Type {
            body: at + 12,
            name: word(&self.data, at)?,
            kind: info >> 24 & 0x1f,
            members: info & 0xffff,
            bitfields: info >> 31 == 1,
            size_or_type: word(&self.data, at + 8)?,
        })
    }

    fn string(&self, offset: u32) -> &[u8] {
        let rest = self.data.get(self.strings + offset as usize..).unwrap_or_default();
        rest.split(|&byte| byte == 0).next().unwrap_or_default()
    }

    /// Offset in bits of a member, also inside anonymous structures and unions.
    fn member(&self, header: Type, field: &str, depth: u32) -> Option<u64> {
        (0..header.members as usize).find_map(|index| {
            let at = header.body + index * 12;
            let name = word(&self.data, at)?;
            let offset = word(&self.data, at + 8)?;
            let bits = u64::from(if header.bitfields { offset & 0x00ff_ffff } else { offset });
            let found = self.string(name);
            if found == field.as_bytes() {
                return Some(bits);
            }
            if !found.is_empty() || depth == 0 {
                return None;
            }
            let inner = self.by_id(self.without_qualifiers(word(&self.data, at + 4)?))?;
            matches!(inner.kind, KIND_STRUCT | KIND_UNION)
                .then(|| self.member(inner, field, depth - 1))
                .flatten()
                .map(|inside| bits + inside)
        })
    }
}

/// A structure by name.
struct Structure<'a> {
    btf: &'a KernelBtf,
    name: &'static str,
    header: Type,
}

impl Structure<'_> {
    /// Offset of a field, bytes.
    fn field(&self, field: &'static str) -> Result<u64, BtfError> {
        /// Anonymous structures lie at most this deep in one another.
        const MAX_DEPTH: u32 = 8;
        let bits = self.btf.member(self.header, field, MAX_DEPTH);
        bits.map(|bits| bits / 8).ok_or(BtfError::NoField { name: self.name, field })
    }
}

/// Bytes that follow a type's header, by kind.
fn body_len(header: Type) -> Option<usize> {
    let members = header.members as usize;
    Some(match header.kind {
        KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
        KIND_ARRAY => 12,
        KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => members * 12,
        KIND_ENUM | KIND_FUNC_PROTO => members * 8,
        // Pointers, forwards, typedefs, qualifiers, functions, floats.
        2 | 7..=12 | 16 | KIND_TYPE_TAG => 0,
        _ => return None,
    })
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_kernel_has_every_field() {
        let btf = KernelBtf::of_running_kernel().unwrap();
        let offsets = btf.offsets().unwrap();
        assert!(offsets.task_tgid > 0);
        // `pid_t pid; pid_t tgid;` stand side by side in every kernel.
        assert_eq!(offsets.task_tgid, offsets.task_pid + 4);
        assert_eq!(offsets.upid_size, 16);
    }

    #[test]
    fn tracepoints_tell_their_arguments() {
        let btf = KernelBtf::of_running_kernel().unwrap();
        assert_eq!(btf.tracepoint_arguments("btf_trace_sched_process_fork").unwrap(), [true, true]);
        assert_eq!(
            btf.tracepoint_arguments("btf_trace_signal_generate").unwrap(),
            [false, true, true, false, false]
        );
    }

    #[test]
    fn missing_names_are_named() {
        let btf = KernelBtf::of_running_kernel().unwrap();
        let error = btf.structure("task_struct").unwrap().field("nonsense").unwrap_err();
        assert!(error.to_string().contains("nonsense"), "{error}");
        assert!(btf.structure("no_such_struct").is_err());
    }

    #[test]
    fn damage_is_refused() {
        let whole = fs::read(KERNEL_BTF).unwrap();
        for cut in [0, 1, 2, 4, 23, 24] {
            assert!(KernelBtf::parse(whole[..cut].to_vec()).is_err(), "{cut}");
        }
        // Cut within a type: the header promises more than there is.
        assert!(KernelBtf::parse(whole[..4096].to_vec()).is_err());
        let mut wrong = whole[..4096].to_vec();
        wrong[0] ^= 1;
        assert!(matches!(KernelBtf::parse(wrong), Err(BtfError::Malformed { offset: 0, .. })));
    }
}
