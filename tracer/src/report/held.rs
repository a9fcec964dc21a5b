//! What leaks hold, in words: ports, memory, descriptors, devices, COMMAND's streams.

use std::collections::BTreeSet;

use super::digest::Group;
use super::prose::phrase;
use super::words::{LISTED, count, enumerate, list, size};
use crate::lineage::model::{Resources, Stream};

/// What one or several processes hold between them.
struct Held {
    listening: Vec<String>,
    devices: Vec<String>,
    /// Bytes; 0 also where it is not known.
    rss: u64,
    /// 0 also where it is not known.
    fds: u64,
}

impl Held {
    fn by(all: &[&Resources]) -> Self {
        let mut held = Self { listening: Vec::new(), devices: Vec::new(), rss: 0, fds: 0 };
        for resources in all {
            let Resources { rss_bytes, fds, listening, devices, streams: _ } = resources;
            held.listening.extend(listening.iter().map(|address| phrase(address)));
            held.devices.extend(devices.iter().map(|device| phrase(device)));
            held.rss = held.rss.saturating_add(rss_bytes.unwrap_or_default());
            held.fds = held.fds.saturating_add(fds.unwrap_or_default());
        }
        // Children share what they inherited.
        for names in [&mut held.listening, &mut held.devices] {
            let mut seen = BTreeSet::new();
            names.retain(|name| seen.insert(name.clone()));
        }
        held
    }
}

/// `It listens on ... and holds ...`; `None` where nothing is known.
pub(super) fn sentence(all: &[&Resources]) -> Option<String> {
    let Held { listening, devices, rss, fds } = Held::by(all);
    let held = [
        (rss > 0).then(|| format!("{} of memory", size(rss))),
        (fds > 0).then(|| count(fds, "open file descriptor")),
        (!devices.is_empty()).then(|| list(&devices)),
    ];
    let held: Vec<String> = held.into_iter().flatten().collect();
    let (who, s) = if all.len() == 1 { ("It", "s") } else { ("Together they", "") };
    let parts = [
        (!listening.is_empty()).then(|| format!("listen{s} on {}", list(&listening))),
        (!held.is_empty()).then(|| format!("hold{s} {}", enumerate(&held))),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| format!("{who} {}.", parts.join(" and ")))
}

/// In few words: `127.0.0.1:3000`, `18.2 MiB`, `COMMAND's stdout`.
pub(super) fn briefly(all: &[&Resources]) -> Vec<String> {
    let Held { listening, devices, rss, fds: _ } = Held::by(all);
    let mut brief = first_of(listening);
    brief.extend(first_of(devices));
    brief.extend((rss > 0).then(|| size(rss)));
    let names = stream_names(all.iter().flat_map(|resources| &resources.streams).copied());
    brief.extend((!names.is_empty()).then(|| format!("COMMAND's {}", enumerate(&names))));
    brief
}

fn first_of(mut names: Vec<String>) -> Vec<String> {
    if names.len() > LISTED {
        let more = names.split_off(LISTED).len();
        names.push(format!("{more} more"));
    }
    names
}

/// Which of COMMAND's streams are still held, and what that does to their readers.
pub(super) fn streams(group: &Group<'_>) -> Option<String> {
    let resources = group.iter().filter_map(|finding| finding.resources.as_ref());
    let holders: Vec<&Vec<Stream>> = resources
        .map(|resources| &resources.streams)
        .filter(|streams| !streams.is_empty())
        .collect();
    let (who, whom) = match (holders.len(), group.len()) {
        (0, _) => return None,
        (1, 1) => ("It still holds".to_owned(), "it"),
        (1, _) => ("One of them still holds".to_owned(), "it"),
        (some, all) if some < all => (format!("{some} of them still hold"), "them"),
        _ => ("They still hold".to_owned(), "them"),
    };
    let names = stream_names(holders.into_iter().flatten().copied());
    let pipe = if names.len() == 1 { "that pipe" } else { "those pipes" };
    let names = enumerate(&names);
    Some(format!("{who} COMMAND's {names} open: whoever reads {pipe} will wait for {whom}."))
}

fn stream_names(streams: impl Iterator<Item = Stream>) -> Vec<String> {
    let streams: BTreeSet<Stream> = streams.collect();
    let name = |stream| match stream {
        Stream::Stdout => "stdout".to_owned(),
        Stream::Stderr => "stderr".to_owned(),
    };
    streams.into_iter().map(name).collect()
}
