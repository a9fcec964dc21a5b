//! `tracer hook install`: that an agent then runs hooks, that nothing else of its settings changes, and
//! that it can be taken back.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;
use tracer_tests::hook::{Listener, claude, expect_silence};
use tracer_tests::{Finished, Run, binary};

/// A home folder, in which agents have their settings.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder is made");
        fs::write(&path, content).expect("a file is written");
        path
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.read(name)).expect("JSON")
    }

    /// Every file and folder below.
    fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut folders = vec![self.0.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder").flatten() {
                let path = entry.path();
                names.push(
                    path.strip_prefix(self.0.path()).expect("a path below").display().to_string(),
                );
                folders.extend(entry.file_type().expect("a kind").is_dir().then_some(path));
            }
        }
        names.sort();
        names
    }

    /// `tracer hook ...` here, with no agent installed.
    fn run(&self, args: &[&str]) -> Finished {
        self.run_by(binary::tracer(), args)
    }

    fn run_by(&self, tracer: &Path, args: &[&str]) -> Finished {
        let line = ["sh", "-c", "cd \"$HOME\" && exec \"$0\" hook \"$@\""].map(str::to_owned);
        let tracer = tracer.to_str().expect("a path of UTF-8").to_owned();
        let args = args.iter().map(|&arg| arg.to_owned());
        let run = Run::command(line.into_iter().chain([tracer]).chain(args)).alone();
        let path = format!("{}:/usr/bin:/bin", self.path("bin").display());
        let run = run.env("HOME", self.0.path()).env("PATH", path);
        ["CLAUDE_CONFIG_DIR", "CODEX_HOME", "GEMINI_CLI_HOME", "XDG_CONFIG_HOME"]
            .into_iter()
            .fold(run, |run, name| run.env(name, ""))
            .finish()
    }

    #[track_caller]
    fn install(&self, args: &[&str]) -> String {
        self.expect(&[&["install"], args].concat())
    }

    #[track_caller]
    fn uninstall(&self, args: &[&str]) -> String {
        self.expect(&[&["uninstall"], args].concat())
    }

    #[track_caller]
    fn expect(&self, args: &[&str]) -> String {
        let finished = self.run(args);
        finished.expect_code(0);
        assert!(finished.stderr.is_empty(), "{finished:#}");
        finished.stdout_text()
    }
}

const CLAUDE: &str = ".claude/settings.json";

/// The command lines of an event's hooks.
fn commands(settings: &Value, event: &str) -> Vec<String> {
    let groups = settings["hooks"][event].as_array().into_iter().flatten();
    let hooks = groups.flat_map(|group| group["hooks"].as_array().into_iter().flatten());
    hooks.map(|hook| hook["command"].as_str().expect("a command").to_owned()).collect()
}

#[test]
fn installed_hook_is_what_the_agent_then_runs() {
    let (home, listener) = (Home::new(), Listener::bind());
    let said = home.install(&["claude-code", "--tell-agent"]);
    assert!(said.contains(CLAUDE), "{said}");
    let command = commands(&home.json(CLAUDE), "PreToolUse").remove(0);
    assert!(command.ends_with(" hook claude-code --tell-agent"), "{command}");
    assert!(command.starts_with(['/', '\'']), "{command}");
    let input = claude("PreToolUse", json!({})).to_string();
    let run = Run::shell(&command).alone().env("TRACER_SOCKET", listener.path());
    expect_silence(&run.input(input.as_bytes()).finish());
    assert_eq!(listener.heard()[0]["id"], "toolu_1");
}

#[test]
fn path_of_tracer_may_hold_anything() {
    let (home, listener) = (Home::new(), Listener::bind());
    let odd = home.path("it's a \"$place\"");
    fs::create_dir(&odd).unwrap();
    let tracer = odd.join("tracer");
    fs::copy(binary::tracer(), &tracer).unwrap();
    home.run_by(&tracer, &["install", "claude-code"]).expect_code(0);
    let settings = home.json(CLAUDE);
    let command = commands(&settings, "Stop").remove(0);
    let input = claude("Stop", json!({})).to_string();
    let run = Run::shell(&command).alone().env("TRACER_SOCKET", listener.path());
    expect_silence(&run.input(input.as_bytes()).finish());
    assert_eq!(listener.heard().len(), 1);
    // Another installation takes the place of this one, and gives it back.
    home.install(&["claude-code"]);
    assert_eq!(commands(&home.json(CLAUDE), "Stop").len(), 1);
    home.run_by(&tracer, &["install", "claude-code"]).expect_code(0);
    assert_eq!(home.json(CLAUDE), settings);
    home.uninstall(&["claude-code"]);
    assert!(!home.path(CLAUDE).exists());
}

#[test]
fn every_agent_gets_its_events() {
    let home = Home::new();
    let claude = [
        "PreToolUse",
        "PermissionDenied",
        "PostToolUse",
        "PostToolUseFailure",
        "PostToolBatch",
        "Stop",
        "SessionEnd",
    ];
    let codex = ["PreToolUse", "PostToolUse", "Stop", "Interrupt", "SessionEnd"];
    let gemini = ["BeforeTool", "AfterTool", "BeforeAgent", "AfterAgent", "SessionEnd"];
    for (agent, file, events) in [
        ("claude-code", CLAUDE, &claude[..]),
        ("codex", ".codex/hooks.json", &codex),
        ("gemini", ".gemini/settings.json", &gemini),
    ] {
        let said = home.install(&[agent, "--user"]);
        assert_eq!(said.contains("trust"), agent == "codex", "{said}");
        let settings = home.json(file);
        let names: Vec<_> = settings["hooks"].as_object().unwrap().keys().collect();
        assert_eq!(names, events, "{agent}");
        for event in events {
            let commands = commands(&settings, event);
            assert_eq!(commands.len(), 1, "{agent} {event}");
            assert!(commands[0].ends_with(&format!(" hook {agent}")), "{commands:?}");
        }
        home.uninstall(&[agent]);
    }
    assert_eq!(home.names(), [""; 0], "nothing is left");
}

#[test]
fn old_claude_code_is_not_given_events_that_it_would_refuse() {
    let home = Home::new();
    let version = |version: &str| {
        let fake =
            home.write("bin/claude", &format!("#!/bin/sh\necho '{version} (Claude Code)'\n"));
        fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
        home.install(&["claude-code"]);
        home.json(CLAUDE)["hooks"].as_object().unwrap().len()
    };
    assert_eq!(version("2.1.100"), 4);
    assert_eq!(version("2.1.101"), 7);
    assert_eq!(version("2.0.14"), 4);
    assert_eq!(version("something else"), 7);
}

/// Settings as a person writes them: odd layout, hooks of others, an empty place for hooks.
const MINE: &str = r#"{
    "model":  "opus",
    "hooks": {
        "PreToolUse": [ { "matcher": "Bash", "hooks": [ { "type": "command", "command": "mine" } ] } ],
        "Notification": []
    },
    "permissions": {"allow": ["Bash(ls:*)"]}, "zahl": 1.50,
    "a": null
}"#;

#[test]
fn what_is_in_the_settings_stays_and_comes_back_byte_by_byte() {
    let home = Home::new();
    home.write(CLAUDE, MINE);
    let said = home.install(&["claude-code"]);
    let backup = format!("{CLAUDE}.tracer-backup");
    assert!(said.contains(&backup), "{said}");
    assert_eq!(home.read(&backup), MINE);
    let settings = home.json(CLAUDE);
    let names: Vec<_> = settings.as_object().unwrap().keys().collect();
    assert_eq!(names, ["model", "hooks", "permissions", "zahl", "a"]);
    let commands = commands(&settings, "PreToolUse");
    assert_eq!((commands.len(), commands[0].as_str()), (2, "mine"));

    let installed = home.read(CLAUDE);
    let said = home.install(&["claude-code"]);
    assert!(said.contains("already"), "{said}");
    assert_eq!(home.read(CLAUDE), installed);
    home.install(&["claude-code", "--tell-agent=stop,call"]);
    assert_ne!(home.read(CLAUDE), installed);
    assert_eq!(home.read(&backup), MINE, "the backup is of before the hooks");

    home.uninstall(&["claude-code"]);
    assert_eq!(home.read(CLAUDE), MINE);
    assert_eq!(home.names(), [".claude", CLAUDE]);
    let said = home.uninstall(&["claude-code"]);
    assert!(said.contains("no hooks"), "{said}");
    assert_eq!(home.read(CLAUDE), MINE);
}

#[test]
fn what_was_added_since_stays_when_hooks_are_taken_back() {
    let home = Home::new();
    home.write(CLAUDE, MINE);
    home.install(&["claude-code"]);
    let mut settings = home.json(CLAUDE);
    settings["new"] = json!([1, 2]);
    let other = json!({"hooks": [{"type": "command", "command": "other"}]});
    settings["hooks"]["Stop"].as_array_mut().unwrap().push(other.clone());
    home.write(CLAUDE, &settings.to_string());
    home.uninstall(&["claude-code"]);
    let mut expected: Value = serde_json::from_str(MINE).unwrap();
    expected["new"] = json!([1, 2]);
    expected["hooks"]["Stop"] = json!([other]);
    assert_eq!(home.json(CLAUDE), expected);
    // The backup is of no use for this any more, and is not touched by the next.
    home.install(&["claude-code"]);
    assert_eq!(home.read(&format!("{CLAUDE}.tracer-backup")), MINE);
    home.uninstall(&["claude-code"]);
    assert_eq!(home.json(CLAUDE), expected);
    assert_eq!(home.names(), [".claude", CLAUDE, ".claude/settings.json.tracer-backup"]);
}

#[test]
fn settings_that_install_made_are_removed_with_it() {
    let home = Home::new();
    home.install(&["codex", "--project"]);
    assert_eq!(home.names(), [".codex", ".codex/hooks.json"]);
    let said = home.uninstall(&["codex", "--project"]);
    assert!(said.contains("removed"), "{said}");
    assert_eq!(home.names(), [""; 0]);
    for content in ["", "{}", "{ }\n"] {
        home.write(".codex/hooks.json", content);
        home.install(&["codex"]);
        home.uninstall(&["codex"]);
        assert_eq!(home.read(".codex/hooks.json"), content);
        assert_eq!(home.names(), [".codex", ".codex/hooks.json"]);
    }
}

#[test]
fn linked_settings_stay_linked_with_their_mode() {
    let home = Home::new();
    let real = home.write("dotfiles/claude.json", "{\"a\": 1}\n");
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    fs::create_dir(home.path(".claude")).unwrap();
    symlink(&real, home.path(CLAUDE)).unwrap();
    home.install(&["claude-code"]);
    assert!(fs::symlink_metadata(home.path(CLAUDE)).unwrap().is_symlink());
    for name in ["dotfiles/claude.json", "dotfiles/claude.json.tracer-backup"] {
        let mode = fs::metadata(home.path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640, "{name}");
    }
    assert_eq!(commands(&home.json("dotfiles/claude.json"), "Stop").len(), 1);
    home.uninstall(&["claude-code"]);
    assert_eq!(home.read("dotfiles/claude.json"), "{\"a\": 1}\n");
    assert!(fs::symlink_metadata(home.path(CLAUDE)).unwrap().is_symlink());
}

#[test]
fn settings_that_cannot_be_changed_without_loss_are_left_alone() {
    let home = Home::new();
    for content in ["// mine\n{}", "{\"a\": 1,}", "[]", "{\"hooks\": []}", "{"] {
        home.write(".gemini/settings.json", content);
        let finished = home.run(&["install", "gemini"]);
        finished.expect_code(125);
        let said = finished.stderr_text();
        assert!(said.contains(".gemini/settings.json") && said.contains("left as it is"), "{said}");
        assert_eq!(home.read(".gemini/settings.json"), content);
        assert_eq!(home.names(), [".gemini", ".gemini/settings.json"]);
    }
    home.write(".gemini/settings.json", "// mine\n{}");
    home.run(&["uninstall", "gemini"]).expect_code(125);
    let finished = home.run(&["install", "gemini", "--print"]);
    finished.expect_code(0);
    assert!(finished.stderr_text().contains("by hand"), "{finished:#}");
    let shown: Value = serde_json::from_slice(&finished.stdout).unwrap();
    assert_eq!(commands(&shown, "BeforeTool").len(), 1);
    assert_eq!(home.read(".gemini/settings.json"), "// mine\n{}");
}

#[test]
fn printing_writes_nothing() {
    let home = Home::new();
    let shown = home.install(&["claude-code", "--print"]);
    assert_eq!(home.names(), [""; 0]);
    home.write(CLAUDE, MINE);
    let with_mine = home.install(&["claude-code", "--print"]);
    assert_eq!(home.names(), [".claude", CLAUDE]);
    assert_eq!(home.read(CLAUDE), MINE);
    home.install(&["claude-code"]);
    assert_eq!(home.read(CLAUDE), with_mine.trim_end());
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(commands(&shown, "Stop"), commands(&home.json(CLAUDE), "Stop"));
    assert_eq!(home.install(&["opencode", "--print"]).matches("callID").count(), 2);
}

#[test]
fn project_and_user_are_not_mixed_up() {
    let home = Home::new();
    let both = home.run(&["install", "claude-code", "--project", "--user"]);
    both.expect_code(2);
    home.run(&["install", "no-such-agent"]).expect_code(2);
    home.run(&["install"]).expect_code(2);
    let run = Run::exact_arguments(["hook", "install", "claude-code"]).env("HOME", "");
    let finished = run.finish();
    finished.expect_code(125);
    assert!(finished.stderr_text().contains("HOME"), "{finished:#}");
}

#[test]
fn plugin_for_opencode_comes_and_goes() {
    let home = Home::new();
    let plugin = ".config/opencode/plugins/tracer.js";
    home.install(&["opencode"]);
    assert!(home.read(plugin).contains("TRACER_TOOL_CALL_ID"));
    assert!(home.install(&["opencode"]).contains("already"));
    home.uninstall(&["opencode"]);
    assert_eq!(home.names(), [".config", ".config/opencode"]);
    assert!(home.uninstall(&["opencode"]).contains("no hooks"));
    home.write(plugin, "mine");
    for verb in ["install", "uninstall"] {
        let finished = home.run(&[verb, "opencode"]);
        finished.expect_code(125);
        assert!(finished.stderr_text().contains(plugin), "{finished:#}");
        assert_eq!(home.read(plugin), "mine");
    }
    home.install(&["opencode", "--project"]);
    assert!(home.path(".opencode/plugins/tracer.js").exists());
    home.run(&["install", "opencode", "--tell-agent"]).expect_code(125);
}

#[test]
fn plugin_for_opencode_gives_what_a_call_starts_its_id() {
    if !binary::is_installed("node") {
        return tracer_tests::skip("no node here");
    }
    let home = Home::new();
    home.install(&["opencode"]);
    let plugin = home.path(".config/opencode/plugins/tracer.js");
    let module = home.path("tracer.mjs");
    fs::copy(plugin, &module).unwrap();
    let script = "const all = await import(process.argv[1]);
        for (const plugin of Object.values(all)) {
          const hooks = await plugin({});
          for (const input of [{ cwd: '/', callID: 'call_1' }, { cwd: '/' }]) {
            const output = { env: {} };
            await hooks['shell.env'](input, output);
            console.log(JSON.stringify(output));
          }
        }";
    let output = Command::new("node")
        .args(["--input-type=module", "-e", script])
        .arg(&module)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = said.lines().collect();
    let expected = [r#"{"env":{"TRACER_TOOL_CALL_ID":"call_1"}}"#, r#"{"env":{}}"#];
    assert_eq!(lines, expected, "{}", String::from_utf8_lossy(&output.stderr));
}
