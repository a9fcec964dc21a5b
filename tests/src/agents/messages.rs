//! A Messages endpoint that plays a script instead of a model: the agent is real, what it is told
//! to do is the test's.
//!
//! Each conversation has its own turns: the main one, and one of each subagent, which is known by
//! the prompt that it was started with. A turn is what the model answers with; the next one is due
//! when the agent asks again, which it does with the results of the tools that it was told to use.
//! After the last turn of a conversation the model says that it is done.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

use super::http::{Request, Response, Server};
use crate::sys;

/// A part of an answer of the model.
#[derive(Clone, Debug)]
pub struct Block(Value);

/// The model says this.
#[must_use]
pub fn says(text: &str) -> Block {
    Block(json!({"type": "text", "text": text}))
}

/// The model uses a tool of the agent's, in a call of this id.
#[must_use]
pub fn uses(tool: &str, id: &str, input: &Value) -> Block {
    Block(json!({"type": "tool_use", "id": id, "name": tool, "input": input}))
}

/// What the model will answer.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Script {
    main: Vec<Vec<Block>>,
    subagents: Vec<(String, Vec<Vec<Block>>)>,
}

impl Script {
    /// A model that says at once that it is done.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a turn to the main conversation.
    pub fn turn(mut self, blocks: impl IntoIterator<Item = Block>) -> Self {
        self.main.push(blocks.into_iter().collect());
        self
    }

    /// Adds a turn to the conversation of the subagent that was started with this prompt.
    pub fn turn_of(mut self, prompt: &str, blocks: impl IntoIterator<Item = Block>) -> Self {
        let turn = blocks.into_iter().collect();
        match self.subagents.iter_mut().find(|(of, _)| of == prompt) {
            Some((_, turns)) => turns.push(turn),
            None => self.subagents.push((prompt.to_owned(), vec![turn])),
        }
        self
    }

    fn answer(&self, asked: &Value) -> Vec<Block> {
        let done = || vec![says("I am done.")];
        if !may_use_tools(asked) {
            return done();
        }
        let messages = asked["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
        let prompt = messages.first().map(|message| texts(&message["content"])).unwrap_or_default();
        let subagent = self.subagents.iter().find(|(of, _)| prompt.contains(of));
        let turns = subagent.map_or(&self.main, |(_, turns)| turns);
        let played = messages.iter().filter(|message| message["role"] == "assistant").count();
        turns.get(played).cloned().unwrap_or_else(done)
    }
}

/// What a tool call came to, as the agent told the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolResult {
    /// Its text.
    pub text: String,
    /// Whether the agent calls it a failure.
    pub is_error: bool,
}

/// The endpoint, until it is dropped.
#[derive(Debug)]
pub struct Endpoint {
    shared: Arc<Shared>,
    server: Server,
}

#[derive(Debug, Default)]
struct Shared {
    told: Mutex<Told>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Told {
    /// Method and target of every request, in order: for whoever looks for a result in vain.
    requests: Vec<String>,
    /// What the model was told by users and tools, of each request in which it may use tools.
    prompts: Vec<Vec<String>>,
    /// By the ids of the calls.
    results: HashMap<String, ToolResult>,
}

impl Endpoint {
    /// Plays this script.
    #[must_use]
    pub fn start(script: Script) -> Self {
        let shared = Arc::new(Shared::default());
        let told = Arc::clone(&shared);
        let server = Server::start(move |request| told.answer(&script, &request));
        Self { shared, server }
    }

    /// What agents take as the base of the API.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// Waits until the agent has told the model what came of this call.
    #[track_caller]
    #[must_use]
    pub fn result(&self, id: &str) -> ToolResult {
        let deadline = Instant::now() + sys::patience();
        let mut told = self.shared.lock();
        loop {
            if let Some(result) = told.results.get(id) {
                return result.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no result of {id}: {told:#?}");
            let woken = self.shared.changed.wait_timeout(told, left);
            told = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// How often the model has read this text so far, of each answer that was asked of it.
    #[must_use]
    pub fn has_read(&self, text: &str) -> Vec<usize> {
        let told = self.shared.lock();
        let times =
            |prompt: &Vec<String>| prompt.iter().map(|said| said.matches(text).count()).sum();
        told.prompts.iter().map(times).collect()
    }

    /// What the agent has told of this call so far; `None` while it is open, or was cut short.
    #[must_use]
    pub fn result_so_far(&self, id: &str) -> Option<ToolResult> {
        self.shared.lock().results.get(id).cloned()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, script: &Script, request: &Request) -> Response {
        self.lock().requests.push(format!("{} {}", request.method, request.target));
        let path = request.target.split('?').next().unwrap_or_default();
        let asked: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        match (request.method.as_str(), path) {
            ("POST", "/v1/messages") => {
                self.take_results(&asked);
                self.take_prompt(&asked);
                message(&asked, &script.answer(&asked))
            }
            ("POST", "/v1/messages/count_tokens") => in_json("200 OK", &json!({"input_tokens": 1})),
            // A look whether anybody is there.
            ("HEAD", _) => in_json("200 OK", &Value::Null),
            _ => in_json(
                "404 Not Found",
                &json!({"type": "error",
                        "error": {"type": "not_found_error", "message": "not in the script"}}),
            ),
        }
    }

    fn take_prompt(&self, asked: &Value) {
        if may_use_tools(asked) {
            let messages = asked["messages"].as_array().into_iter().flatten();
            let users = messages.filter(|message| message["role"] == "user");
            let prompt = users.map(|message| texts(&message["content"])).collect();
            self.lock().prompts.push(prompt);
        }
    }

    fn take_results(&self, asked: &Value) {
        let messages = asked["messages"].as_array().into_iter().flatten();
        let blocks = messages.filter_map(|message| message["content"].as_array()).flatten();
        let mut told = self.lock();
        for block in blocks.filter(|block| block["type"] == "tool_result") {
            let id = block["tool_use_id"].as_str().unwrap_or_default().to_owned();
            let text = texts(&block["content"]);
            told.results.insert(id, ToolResult { text, is_error: block["is_error"] == true });
        }
        drop(told);
        self.changed.notify_all();
    }
}

/// Side questions, as for a title, come without tools.
fn may_use_tools(asked: &Value) -> bool {
    asked["tools"].as_array().is_some_and(|tools| !tools.is_empty())
}

/// The text of a message's or a tool result's content: a string, or blocks.
fn texts(content: &Value) -> String {
    if let Some(text) = content.as_str() {
        return text.to_owned();
    }
    let blocks = content.as_array().into_iter().flatten();
    let texts: Vec<_> = blocks.filter_map(|block| block["text"].as_str()).collect();
    texts.join("\n")
}

fn message(asked: &Value, blocks: &[Block]) -> Response {
    let uses_tools = blocks.iter().any(|Block(block)| block["type"] == "tool_use");
    let stop_reason = if uses_tools { "tool_use" } else { "end_turn" };
    let message = |content: Value, stop_reason: Value| {
        json!({"id": format!("msg_{:016x}", fastrand::u64(..)), "type": "message",
               "role": "assistant", "model": asked["model"], "content": content,
               "stop_reason": stop_reason, "stop_sequence": null,
               "usage": {"input_tokens": 1, "output_tokens": 1}})
    };
    if asked["stream"] != true {
        let blocks: Vec<_> = blocks.iter().map(|Block(block)| block.clone()).collect();
        return in_json("200 OK", &message(blocks.into(), stop_reason.into()));
    }
    let mut events = vec![json!({"type": "message_start",
                                 "message": message(json!([]), Value::Null)})];
    for (index, Block(block)) in blocks.iter().enumerate() {
        // A block begins empty, and comes in deltas: here one.
        let (mut begun, delta) = (block.clone(), delta(block));
        let (part, nothing) =
            if block["type"] == "text" { ("text", json!("")) } else { ("input", json!({})) };
        begun[part] = nothing;
        events.push(json!({"type": "content_block_start", "index": index, "content_block": begun}));
        events.push(json!({"type": "content_block_delta", "index": index, "delta": delta}));
        events.push(json!({"type": "content_block_stop", "index": index}));
    }
    events.push(json!({"type": "message_delta", "usage": {"output_tokens": 1},
                       "delta": {"stop_reason": stop_reason, "stop_sequence": null}}));
    events.push(json!({"type": "message_stop"}));
    let event = |event: &Value| {
        format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default())
    };
    let body: String = events.iter().map(event).collect();
    Response { status: "200 OK", content_type: "text/event-stream", body: body.into_bytes() }
}

fn delta(block: &Value) -> Value {
    if block["type"] == "text" {
        json!({"type": "text_delta", "text": block["text"]})
    } else {
        json!({"type": "input_json_delta", "partial_json": block["input"].to_string()})
    }
}

fn in_json(status: &'static str, body: &Value) -> Response {
    Response { status, content_type: "application/json", body: body.to_string().into_bytes() }
}
