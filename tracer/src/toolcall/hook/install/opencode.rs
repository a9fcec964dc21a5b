//! opencode, which has no commands for hooks but loads programs.
//!
//! The plugin sets the cookie of each call for what the call starts (`exact`), by the hook
//! `shell.env`, which is given `callID` (1.18.33). It announces nothing: that takes a Unix datagram
//! socket, which neither Bun nor Node.js has (`node:dgram` is UDP and `node:net` streams only;
//! nodejs/node#29339), and a process of its own for every call is not worth the name of the tool.

/// The plugin.
pub(super) const PLUGIN: &str = r#"// Written by `tracer hook install opencode`, and removed by `tracer hook uninstall opencode`.
// Gives what a tool call starts the call's id, by which tracer knows whose it is.
export const TracerPlugin = async () => ({
  "shell.env": async (input, output) => {
    if (input.callID) output.env.TRACER_TOOL_CALL_ID = input.callID
  },
})
"#;
