//! Any bytes as the kernel's BTF: refused, or indexed and searched.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracer::kernel::btf::KernelBtf;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(btf) = KernelBtf::parse(bytes.to_vec()) {
        let _ = btf.offsets();
        let _ = btf.tracepoint_arguments("btf_trace_sched_process_exit");
    }
});
