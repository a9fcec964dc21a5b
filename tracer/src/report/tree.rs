//! Whence the leaks came: a tree from the root of the invocation down to them.
//!
//! The lineages of all findings share one tree; an ancestor of several is drawn once.
//!
//! ```text
//! python3[4200] leaky_agent.py (exited 0)
//! ├── python3[4203] -m http.server 3000  ◄ survivor 2.0 s, 127.0.0.1:3000
//! └── sh[4205] -c 'sleep 600 & true' (exited 0)
//!     └── sleep[4206] 600  ◄ survivor 2.0 s
//! ```

use std::collections::HashMap;

use super::digest::Digest;
use super::held;
use super::prose::age;
use super::words::duration;
use crate::escape::{command_line_short, label};
use crate::lineage::model::{Ancestor, Exit, ExitStatus, Finding, FindingKind};

/// Longest arguments on a line, in characters.
const ARGUMENTS: usize = 60;
/// Ancestors drawn of one lineage: more would leave the screen on the right.
const DEPTH: usize = 16;
/// Siblings of one shape that are drawn; the rest are counted.
const ALIKE: usize = 5;
/// Lines drawn of one tree.
const LINES: usize = 200;

/// A line of the tree, in parts that a terminal colours differently.
#[derive(Debug)]
pub(super) struct Line {
    /// Box characters before it.
    pub(super) branches: String,
    /// Name and pid; or a count of what is not drawn.
    pub(super) name: String,
    /// Arguments and how it ended.
    pub(super) about: String,
    /// The leak, if it is one.
    pub(super) leak: String,
    /// It has ended.
    pub(super) dead: bool,
}

impl Line {
    /// The line without colour.
    pub(super) fn plain(&self) -> String {
        let Self { branches, name, about, leak, dead: _ } = self;
        format!("{branches}{name}{about}{leak}")
    }
}

/// Draws the leaks of a digest; nothing where there are none.
pub(super) fn draw(digest: &Digest<'_>) -> Vec<Line> {
    let mut tree = Tree::default();
    let invocation = &digest.outcome.invocation;
    let root = &invocation.root;
    tree.process(
        None,
        Seen {
            pid: root.pids.shown(),
            name: &root.name,
            args: &root.args,
            exit: invocation.exit.as_ref(),
        },
    );
    for group in &digest.leaks {
        for finding in group.iter() {
            tree.add(finding, digest);
        }
    }
    if digest.leaks.is_empty() { Vec::new() } else { tree.lines() }
}

#[derive(Default)]
struct Tree<'a> {
    /// Parents before children.
    nodes: Vec<Node<'a>>,
    roots: Vec<usize>,
    /// Processes by parent, pid and name: several where a pid was used again.
    places: HashMap<Place<'a>, Vec<usize>>,
}

/// Parent's node, pid, name.
type Place<'a> = (Option<usize>, u32, &'a [u8]);

struct Node<'a> {
    what: What<'a>,
    children: Vec<usize>,
}

enum What<'a> {
    Process {
        seen: Seen<'a>,
        leaks: Vec<(FindingKind, String)>,
    },
    /// So many generations that are not drawn.
    Elided(usize),
}

/// A process as a lineage tells of it.
#[derive(Clone, Copy)]
struct Seen<'a> {
    pid: u32,
    name: &'a [u8],
    args: &'a [Vec<u8>],
    exit: Option<&'a Exit>,
}

impl<'a> Tree<'a> {
    fn add(&mut self, finding: &'a Finding, digest: &Digest<'_>) {
        let lineage = &finding.lineage;
        let elided = usize::try_from(finding.lineage_elided).unwrap_or(usize::MAX);
        // The core cuts out of the middle; so does this, at the same place.
        let keep = lineage.len().min(DEPTH);
        let (head, tail) = (keep.div_ceil(2), keep / 2);
        let gap = elided.saturating_add(lineage.len() - keep);
        let mut at = None;
        for ancestor in &lineage[..head] {
            at = Some(self.process(at, ancestor.into()));
        }
        if gap > 0 {
            at = Some(self.elided(at, gap));
        }
        for ancestor in &lineage[lineage.len() - tail..] {
            at = Some(self.process(at, ancestor.into()));
        }
        let process = &finding.process;
        let leaf = self.process(
            at,
            Seen {
                pid: process.pids.shown(),
                name: &process.name,
                args: &process.args,
                exit: finding.exit.as_ref(),
            },
        );
        if let What::Process { leaks, .. } = &mut self.nodes[leaf].what {
            leaks.push((finding.kind, marker(finding, digest)));
        }
    }

    /// The node of a process below `parent`, made where it is new.
    fn process(&mut self, parent: Option<usize>, seen: Seen<'a>) -> usize {
        let key = (parent, seen.pid, seen.name);
        for place in self.places.get(&key).into_iter().flatten() {
            if let What::Process { seen: known, .. } = &mut self.nodes[*place].what
                && same_end(known.exit, seen.exit)
            {
                // A later look may know more: how it ended.
                known.exit = known.exit.or(seen.exit);
                return *place;
            }
        }
        let place = self.push(parent, What::Process { seen, leaks: Vec::new() });
        self.places.entry(key).or_default().push(place);
        place
    }

    fn elided(&mut self, parent: Option<usize>, gap: usize) -> usize {
        let siblings = parent.map_or(&self.roots, |parent| &self.nodes[parent].children);
        let known = siblings
            .iter()
            .find(|node| matches!(self.nodes[**node].what, What::Elided(known) if known == gap));
        match known {
            Some(known) => *known,
            None => self.push(parent, What::Elided(gap)),
        }
    }

    fn push(&mut self, parent: Option<usize>, what: What<'a>) -> usize {
        let place = self.nodes.len();
        self.nodes.push(Node { what, children: Vec::new() });
        match parent {
            Some(parent) => self.nodes[parent].children.push(place),
            None => self.roots.push(place),
        }
        place
    }

    /// A number for each node that is the same for subtrees that look alike.
    fn shapes(&self) -> Vec<usize> {
        type Shape<'s> = (&'s [u8], Vec<FindingKind>, Option<(bool, u8)>, Vec<usize>, usize);
        let mut known: HashMap<Shape<'_>, usize> = HashMap::new();
        let mut shapes = vec![0; self.nodes.len()];
        // Children come after their parents, so from the end all of a node's are done.
        for (place, node) in self.nodes.iter().enumerate().rev() {
            let below = node.children.iter().map(|child| shapes[*child]).collect();
            let shape: Shape<'_> = match &node.what {
                What::Process { seen, leaks } => {
                    let kinds = leaks.iter().map(|(kind, _)| *kind).collect();
                    let end = seen.exit.map(|exit| match exit.status {
                        None => (false, 0),
                        Some(ExitStatus::Code(code)) => (false, code),
                        Some(ExitStatus::Signal(signal)) => (true, signal),
                    });
                    (seen.name, kinds, end, below, 0)
                }
                What::Elided(gap) => (&[], Vec::new(), None, below, *gap),
            };
            let next = known.len();
            shapes[place] = *known.entry(shape).or_insert(next);
        }
        shapes
    }

    fn lines(&self) -> Vec<Line> {
        let shapes = self.shapes();
        let mut lines = Vec::new();
        // What is still to be drawn, the next one last.
        let mut stack: Vec<(Item, String, String)> = Vec::new();
        for item in fold(&self.roots, &shapes).into_iter().rev() {
            stack.push((item, String::new(), String::new()));
        }
        while let Some((item, branches, below)) = stack.pop() {
            if lines.len() == LINES {
                lines.push(folded(String::new(), "… and more; a report file has all".to_owned()));
                break;
            }
            let Item::Node(place) = item else {
                if let Item::Alike(number) = item {
                    lines.push(folded(branches, format!("… and {number} more like it")));
                }
                continue;
            };
            let node = &self.nodes[place];
            lines.push(line(branches, &node.what));
            let items = fold(&node.children, &shapes);
            for (rank, item) in items.into_iter().rev().enumerate() {
                let (fork, trunk) =
                    if rank == 0 { ("└── ", "    ") } else { ("├── ", "│   ") };
                stack.push((item, format!("{below}{fork}"), format!("{below}{trunk}")));
            }
        }
        lines
    }
}

/// What stands on one line among siblings.
enum Item {
    Node(usize),
    Alike(usize),
}

/// Siblings in their order, those beyond [`ALIKE`] of one shape only counted, after the last
/// one drawn. A single one more is drawn: its line is no longer than the count's.
fn fold(siblings: &[usize], shapes: &[usize]) -> Vec<Item> {
    let mut totals: HashMap<usize, usize> = HashMap::new();
    for sibling in siblings {
        *totals.entry(shapes[*sibling]).or_default() += 1;
    }
    let mut drawn: HashMap<usize, usize> = HashMap::new();
    let mut items = Vec::new();
    for sibling in siblings {
        let shape = shapes[*sibling];
        let total = totals.get(&shape).copied().unwrap_or_default();
        let rank = drawn.entry(shape).or_default();
        *rank += 1;
        if *rank <= ALIKE || total == ALIKE + 1 {
            items.push(Item::Node(*sibling));
            if *rank == ALIKE && total > ALIKE + 1 {
                items.push(Item::Alike(total - ALIKE));
            }
        }
    }
    items
}

fn line(branches: String, what: &What<'_>) -> Line {
    let (seen, leaks) = match what {
        What::Process { seen, leaks } => (seen, leaks),
        What::Elided(gap) => return folded(branches, format!("… {gap} generations between …")),
    };
    let arguments = arguments(seen);
    let space = if arguments.is_empty() { "" } else { " " };
    let end = seen.exit.map(|exit| format!(" ({exit})")).unwrap_or_default();
    let marks: Vec<&str> = leaks.iter().map(|(_, marker)| marker.as_str()).collect();
    Line {
        branches,
        name: label(seen.name, seen.pid),
        about: format!("{space}{arguments}{end}"),
        leak: if marks.is_empty() { String::new() } else { format!("  ◄ {}", marks.join("; ")) },
        dead: seen.exit.is_some(),
    }
}

fn folded(branches: String, name: String) -> Line {
    Line { branches, name, about: String::new(), leak: String::new(), dead: true }
}

/// The arguments after the name; all of them where the first is something else than the name.
fn arguments(seen: &Seen<'_>) -> String {
    let own_name = |arg: &Vec<u8>| arg.rsplit(|byte| *byte == b'/').next() == Some(seen.name);
    let args = match seen.args {
        [first, rest @ ..] if own_name(first) => rest,
        args => args,
    };
    if args.is_empty() { String::new() } else { command_line_short(args, ARGUMENTS) }
}

fn marker(finding: &Finding, digest: &Digest<'_>) -> String {
    let mut parts =
        vec![format!("{} {}", finding.kind.as_str(), duration(age(finding, digest.outcome)))];
    parts.extend(finding.resources.iter().flat_map(|resources| held::briefly(&[resources])));
    parts.join(", ")
}

/// Whether two looks at a pid can be of one process: it cannot have ended twice.
fn same_end(one: Option<&Exit>, other: Option<&Exit>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.at == other.at,
        _ => true,
    }
}

impl<'a> From<&'a Ancestor> for Seen<'a> {
    fn from(ancestor: &'a Ancestor) -> Self {
        let Ancestor { pid, name, args, args_truncated: _, exit } = ancestor;
        Self { pid: *pid, name, args, exit: exit.as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lineage::model::{Nanos, Outcome};
    use crate::report::sample;

    fn drawn(outcome: &Outcome) -> String {
        let lines = draw(&Digest::new(outcome));
        lines.iter().map(|line| line.plain() + "\n").collect()
    }

    #[test]
    fn common_ancestors_are_drawn_once() {
        insta::assert_snapshot!(drawn(&sample::four_leaks()));
    }

    #[test]
    fn siblings_of_one_shape_are_folded() {
        insta::assert_snapshot!(drawn(&sample::zombies(500)));
        insta::assert_snapshot!(drawn(&sample::servers(7)));
        assert!(!drawn(&sample::zombies(6)).contains('…'));
    }

    #[test]
    fn middle_of_a_deep_lineage_is_left_out() {
        insta::assert_snapshot!(drawn(&sample::odd()));
    }

    #[test]
    fn clean_has_no_tree() {
        assert_eq!(drawn(&sample::clean()), "");
        assert_eq!(drawn(&sample::resolved(1)), "");
    }

    #[test]
    fn leak_that_is_an_ancestor_of_another_is_drawn_once() {
        let mut outcome = sample::servers(2);
        let shell = outcome.findings[1].lineage[1].clone();
        outcome.findings[0].process = sample::process(shell.pid, &["sh", "-c", "node server.js"]);
        outcome.findings[0].lineage.pop();
        assert_eq!(drawn(&outcome).matches("sh[6002]").count(), 1);
    }

    #[test]
    fn pid_used_again_is_another_process() {
        let mut outcome = sample::servers(2);
        let mut earlier = outcome.findings[0].lineage[1].clone();
        earlier.exit.as_mut().unwrap().at = Nanos(1);
        outcome.findings[1].lineage[1] = earlier;
        assert_eq!(drawn(&outcome).matches("sh[6001]").count(), 2);
    }

    #[test]
    fn deep_chain_of_leaks_is_drawn() {
        let mut outcome = sample::servers(1);
        let first = outcome.findings[0].clone();
        for id in 2..3_000 {
            let mut finding = first.clone();
            finding.id = id;
            finding.process = sample::process(10_000 + id, &["sh"]);
            finding
                .lineage
                .extend((2..id.min(64)).map(|n| sample::ancestor(10_000 + n, &["sh"], None)));
            outcome.findings.push(finding);
        }
        assert!(drawn(&outcome).lines().count() <= LINES + 1);
    }
}
