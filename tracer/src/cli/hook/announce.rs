//! The hook itself: reads what the agent says, announces it, and answers.

use std::{
    io::{self, Write as _},
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::{
    event::{PollFd, PollFlags},
    time::{ClockId, clock_gettime},
};

use super::AnnounceArgs;
use crate::{
    cli::{exit::Status, in_one_line, shown},
    escape,
    toolcall::{
        DAEMON_SOCKET, SOCKET,
        hook::{self, Agent, Heard, Occasion, OpenCallFiles, runtime_folder},
        message::Body,
        own_socket,
        speaker::{Speaker, wait},
    },
};

/// Environment variable that, set to 1, has a hook say on standard error why it said nothing.
const DEBUG: &str = "TRACER_HOOK_DEBUG";
/// How long a hook waits for more of its input, and for all of it. Agents write it at once and
/// close it.
const INPUT_PATIENCE: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(5)];
/// How long all messages of a hook may take, where the listener's queue is full.
const SOCKET_PATIENCE: Duration = Duration::from_millis(5);
/// How long an answer may take, with --tell-agent. It takes milliseconds, but what comes too late
/// counts as told and never is.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);

/// Announces what the agent gave on standard input. That nobody listens, or nothing can be
/// understood, is none of the agent's business.
pub(super) fn announce(agent: Agent, options: &AnnounceArgs) -> Status {
    if let Err(error) = try_announce(agent, options) {
        excuse(&error);
    }
    Status::OK
}

/// Says why nothing was announced, where that is wanted.
pub(super) fn excuse(error: &anyhow::Error) {
    if std::env::var_os(DEBUG).is_some_and(|set| set == "1") {
        let text = format!("tracer: failed to {}", in_one_line(error));
        let _ = writeln!(io::stderr(), "{}", escape::terminal(text.as_bytes()));
    }
}

fn try_announce(agent: Agent, options: &AnnounceArgs) -> anyhow::Result<()> {
    let at = boot_time();
    // Also where nobody listens: an agent may take a closed pipe for a failure.
    let input = read_input().context("read standard input")?;
    let Some(socket) = own_socket() else {
        bail!("find a listener: {SOCKET} is not set, and no daemon listens at {DAEMON_SOCKET}");
    };
    let mut open = OpenCallFiles::new(&runtime_folder(), &socket, at, std::process::id());
    let heard = hook::read(agent, &input, &mut open)?;
    let question = heard.occasion.filter(|occasion| options.tell.wants(*occasion));
    if heard.said.is_empty() && question.is_none() {
        return Ok(());
    }
    let shown = shown(&socket);
    let speaker = Speaker::connect(&socket, SOCKET_PATIENCE);
    let speaker = speaker.with_context(|| format!("reach a listener at {shown}"))?;
    for said in &heard.said {
        let message = heard.message(agent, at, Body::Says(said.clone()));
        speaker.say(&message).with_context(|| format!("send to {shown}"))?;
    }
    match question {
        Some(occasion) => tell(agent, &heard, occasion, &speaker),
        None => Ok(()),
    }
}

/// Asks what stands open and gives it to the agent.
fn tell(agent: Agent, heard: &Heard, occasion: Occasion, speaker: &Speaker) -> anyhow::Result<()> {
    let question = heard.message(agent, boot_time(), Body::Findings { tell: true });
    let answer = speaker.ask(&question, ANSWER_PATIENCE).context("ask for findings")?;
    if let Some(text) = hook::sentences(&answer) {
        let line = hook::answer(agent, occasion, &text);
        writeln!(io::stdout(), "{line}").context("write to standard output")?;
    }
    Ok(())
}

/// `CLOCK_BOOTTIME`, ns, as this process sees it.
fn boot_time() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let nanos = Duration::try_from(now).unwrap_or_default().as_nanos();
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

/// Everything on standard input, within bounds of length and time.
fn read_input() -> anyhow::Result<Vec<u8>> {
    let stdin = io::stdin();
    let [for_more, for_all] = INPUT_PATIENCE;
    let end = Instant::now() + for_all;
    let mut input = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    let mut too_long = false;
    loop {
        let mut ready = [PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN)];
        if !wait(&mut ready, end.min(Instant::now() + for_more))? {
            bail!("it did not end in time");
        }
        match rustix::io::read(&stdin, &mut chunk[..]) {
            Ok(0) if too_long => bail!("it is longer than {} bytes", hook::MAX_INPUT),
            Ok(0) => return Ok(input),
            // The rest is read all the same, so that the agent does not write into a closed pipe.
            Ok(length) if input.len() + length > hook::MAX_INPUT => too_long = true,
            Ok(length) => input.extend_from_slice(&chunk[..length]),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
