//! Any bytes as what a client asks of a daemon that traces for it, and as what a daemon tells a client.
#![no_main]

use std::{io::Write as _, net::Shutdown, os::unix::net::UnixStream};

use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};
use tracer::{
    kernel::{
        records,
        ring::{Batch, Records},
    },
    lineage::ProcessId,
    tap::{
        link::{Link, LinkError},
        requests_in,
    },
};

/// Asks all that a run asks, and reads batches until the daemon has gone.
async fn converse(mut link: Link) -> Result<(), LinkError> {
    let id = ProcessId { pid: 11, start: 200 };
    link.begin(7)?;
    link.flush()?;
    link.counts()?;
    link.walk()?;
    let waits = link.waits(&[(id, id), (id, id)])?;
    assert_eq!(waits.len(), 2, "an answer a pair, whatever the daemon tells");
    link.lives(id)?;
    link.end()?;
    loop {
        if let Batch::Records(batch, _) = link.next().await? {
            for record in Records::of(&batch) {
                let _ = records::decode(record);
            }
        }
    }
}

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
}

fuzz_target!(|bytes: &[u8]| {
    let _ = requests_in(bytes);
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let (near, mut far) = UnixStream::pair().expect("a pair of sockets");
            // They fit the socket's buffer; whatever is asked is never read.
            far.write_all(bytes).expect("room for what is told");
            far.shutdown(Shutdown::Write).expect("an end of what is told");
            let link = Link::new(near).expect("a socket that can be polled");
            let ended = converse(link).await.expect_err("it ends with what the daemon tells");
            let said = ended.to_string();
            assert!(!said.chars().any(tracer::escape::is_hostile), "raw bytes in {said:?}");
        });
    });
});
