//! A daemon in a world of its own, and clients of it: smidr's, and one that knows no message and can therefore say anything.

use std::{
    cell::RefCell,
    fs,
    io::Write as _,
    ops::Deref,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use bytes::{Buf as _, BufMut as _, Bytes};
use hyper_util::rt::TokioIo;
use nix::sys::signal::Signal;
use prost::Message;
use tokio::{
    net::UnixStream,
    runtime::{Builder, Runtime},
};
use tokio_stream::Stream;
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint, Uri},
};

use super::{
    support::{Done, Running, Smidr, wait_for},
    workers::{Alone, SOON},
};

/// The API's package and service, as paths begin.
const SERVICE: &str = "/smidr.v1.Smidr/";

/// A daemon that listens on the Unix socket and on a free port of loopback.
pub(crate) struct Served {
    // Ends before its world goes.
    daemon: RefCell<Option<Running>>,
    world: Alone,
    address: String,
    pin: String,
}

impl Deref for Served {
    type Target = Alone;

    fn deref(&self) -> &Alone {
        &self.world
    }
}

impl Served {
    /// In a world with the image of `hello` and a project `p`, with room for one build; none where there can be no image.
    pub(crate) fn new(test: &str) -> Option<Self> {
        Some(Self::of(Alone::new(test)?))
    }

    /// In a world with a project `p` that cannot be built, with a queue that is paused.
    pub(crate) fn paused() -> Self {
        let served = Self::of(Alone::without_image());
        served.daemon(&["pause"]).expect_code(0);
        served
    }

    fn of(world: Alone) -> Self {
        world.settings("limits: {builds: 1}\n");
        let mut served = Self { daemon: RefCell::default(), world, address: "127.0.0.1:0".into(), pin: String::new() };
        served.begin();
        let greeting = served.greeting();
        let after = |mark: &str| greeting.split(mark).nth(1).and_then(|rest| rest.split_whitespace().next());
        let (port, pin) = (after("HOST:").expect("a port"), after("--pin ").expect("a pin"));
        (served.address, served.pin) = (format!("127.0.0.1:{port}"), pin.to_owned());
        served
    }

    /// Starts the daemon (again), at the same port.
    #[track_caller]
    pub(crate) fn begin(&self) {
        let mut daemon = self.smidr().args(["daemon", "--address", &self.address]).start();
        daemon.until_says("tokens:");
        *self.daemon.borrow_mut() = Some(daemon);
    }

    /// What the daemon has printed.
    pub(crate) fn greeting(&self) -> String {
        self.daemon.borrow().as_ref().expect("it runs").out()
    }

    /// What the daemon has said besides: its log.
    pub(crate) fn log(&self) -> String {
        self.daemon.borrow().as_ref().expect("it runs").err()
    }

    /// The process id of the daemon.
    pub(crate) fn pid(&self) -> u32 {
        self.daemon.borrow().as_ref().expect("it runs").child.id()
    }

    /// Kills the daemon, which learns nothing of it.
    pub(crate) fn kill(&self) {
        let mut daemon = self.daemon.borrow_mut().take().expect("it runs");
        daemon.signal(Signal::SIGKILL);
        daemon.child.wait().expect("it ends");
    }

    /// Waits for the end of the daemon.
    #[track_caller]
    pub(crate) fn until_ended(&self) -> Done {
        self.daemon.borrow_mut().take().expect("it runs").wait()
    }

    /// Says in the user's words what is wrong with the daemon: whether it still is that process, and answers.
    #[track_caller]
    pub(crate) fn expect_alive(&self) {
        let status = self.daemon(&["status", "--json"]);
        assert_eq!(status.expect_code(0).json()["pid"], self.pid(), "another daemon");
    }

    /// `smidr daemon …`
    pub(crate) fn daemon(&self, args: &[&str]) -> Done {
        self.smidr().arg("daemon").args(args).run()
    }

    /// `smidr client …`, on the Unix socket.
    pub(crate) fn client(&self, args: &[&str]) -> Smidr {
        self.smidr().arg("client").args(args)
    }

    /// `smidr client …`, over TLS with a token.
    pub(crate) fn client_with(&self, token: &Path, args: &[&str]) -> Smidr {
        self.over_tls(args).arg("--token-file").arg(token)
    }

    /// `smidr client …`, over TLS, without saying who asks.
    pub(crate) fn over_tls(&self, args: &[&str]) -> Smidr {
        self.client(args).args(["--address", &self.address, "--pin", &self.pin])
    }

    /// Starts a build by the Unix socket. Gives its id.
    #[track_caller]
    pub(crate) fn started(&self, args: &[&str]) -> String {
        let done = self.client(&["start"]).args(args).run();
        let id = done.expect_code(0).out.strip_prefix("Build ID: ").expect("an id");
        id.trim_end().to_owned()
    }

    /// A build as the client shows it.
    #[track_caller]
    pub(crate) fn shown(&self, id: &str) -> serde_json::Value {
        self.client(&["status", id, "--json"]).run().expect_code(0).json()["build"].clone()
    }

    /// Waits until the client shows a build in this state.
    #[track_caller]
    pub(crate) fn until_shown(&self, id: &str, state: &str) {
        wait_for(&format!("{id} to be {state}"), super::support::LONG, || self.shown(id)["state"] == state);
    }

    /// The ids of the builds that wait, in their order.
    pub(crate) fn waiting(&self) -> Vec<String> {
        let queue = self.client(&["queue", "--json"]).run().expect_code(0).json();
        let ids = queue["waiting"].as_array().expect("a list").iter();
        ids.map(|one| one["build"].as_str().expect("an id").to_owned()).collect()
    }

    /// Makes a token. Gives the file that holds it.
    #[track_caller]
    pub(crate) fn token(&self, name: &str, args: &[&str]) -> PathBuf {
        let done = self.smidr().args(["daemon", "token", "create", name]).args(args).run();
        self.token_file(name, &done.expect_code(0).out)
    }

    /// Makes a token that is good for so many seconds; the command line knows minutes. Gives the file that holds it.
    pub(crate) fn token_for(&self, name: &str, seconds: u64) -> PathBuf {
        let request = wire::CreateToken { name: name.into(), scopes: vec![1], lifetime_s: seconds };
        let made: wire::Created = self.caller().call("CreateToken", &request).expect("a token");
        self.token_file(name, &made.secret)
    }

    /// Writes a token to a file.
    pub(crate) fn token_file(&self, name: &str, text: &str) -> PathBuf {
        let file = self.world.home.join(name);
        fs::write(&file, text).expect("write the token");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("close it");
        file
    }

    /// What `/metrics` tells the daemon's own user.
    pub(crate) fn metrics(&self) -> String {
        let socket = std::os::unix::net::UnixStream::connect(self.smidr.join("daemon/daemon.sock"));
        let mut socket = socket.expect("a connection");
        socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("a request");
        std::io::read_to_string(socket).expect("an answer")
    }

    /// Where it listens on TCP.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// A client that can say anything, on the Unix socket.
    pub(crate) fn caller(&self) -> Caller {
        Caller::new(&self.smidr.join("daemon/daemon.sock"), None)
    }

    /// The same with a token, which counts before the user that asks.
    pub(crate) fn caller_with(&self, token: &Path) -> Caller {
        let token = fs::read_to_string(token).expect("a token");
        Caller::new(&self.smidr.join("daemon/daemon.sock"), Some(token.trim().into()))
    }

    /// A finished build with a console of so many lines, put into the history.
    pub(crate) fn synthetic(&self, id: &str, lines: u64) {
        let folder = self.folder(id);
        fs::create_dir_all(&folder).expect("folders");
        let file = fs::File::create(folder.join("events.jsonl")).expect("a journal");
        let mut journal = std::io::BufWriter::new(file);
        let mut number = 0_u64;
        let mut record = |event: &str| {
            number += 1;
            let head = format!(r#"{{"build":"{id}","seq":{number},"at":"2026-01-01T00:00:00Z""#);
            writeln!(journal, "{head},{event}}}").expect("a record");
        };
        record(
            r#""event":"build_started","name":"p","targets":["x"],"machine":"qemux86-64","config":"/nowhere/smidr.yaml""#,
        );
        for line in 1..=lines {
            record(&format!(r#""event":"console","line":"line {line} of a log that somebody has to read""#));
        }
        record(
            r#""event":"finished","outcome":{"state":"COMPLETED","artifacts":0,"artifact_bytes":0,"duration_ms":1}"#,
        );
        drop(journal);
        self.smidr().args(["history", "rebuild"]).run().expect_code(0);
    }

    /// Waits until nothing of this world runs but the daemon.
    #[track_caller]
    pub(crate) fn until_only_the_daemon(&self) {
        let daemon = format!("{} ", self.pid());
        let mut left = Vec::new();
        let is_quiet = || {
            left = self.processes();
            left.retain(|line| !line.starts_with(&daemon));
            left.is_empty()
        };
        wait_for("everything but the daemon to be gone", 5 * SOON, is_quiet);
    }

    /// Waits until the client knows that a build was interrupted.
    #[track_caller]
    pub(crate) fn until_interrupted(&self, id: &str) {
        wait_for("the interruption to be known", SOON, || self.shown(id)["state"] == "INTERRUPTED");
    }
}

/// Messages that are bytes.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// A client on one connection.
pub(crate) struct Caller {
    runtime: Runtime,
    channel: Channel,
    token: Option<String>,
}

impl Caller {
    fn new(socket: &Path, token: Option<String>) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let socket = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        });
        let channel = {
            let _inside = runtime.enter();
            Endpoint::from_static("http://smidr").connect_with_connector_lazy(connector)
        };
        Self { runtime, channel, token }
    }

    /// Where asynchronous work runs.
    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Opens a call with these messages: the answer is a stream, be it of one message or of many.
    pub(crate) fn open(
        &self,
        method: &str,
        messages: Vec<Bytes>,
    ) -> impl Future<Output = Result<Streaming<Bytes>, Status>> + use<> {
        self.open_with(method, tokio_stream::iter(messages))
    }

    /// The same, with messages that may be on their way.
    pub(crate) fn open_with<M>(
        &self,
        method: &str,
        messages: M,
    ) -> impl Future<Output = Result<Streaming<Bytes>, Status>> + use<M>
    where
        M: Stream<Item = Bytes> + Send + 'static,
    {
        let path = format!("{SERVICE}{method}").parse().expect("a path");
        let mut grpc = Grpc::new(self.channel.clone());
        let mut request = Request::new(messages);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("text"));
        }
        async move {
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            Ok(grpc.streaming(request, path, Raw).await?.into_inner())
        }
    }

    /// Makes a call, and reads its answer to the end.
    pub(crate) fn bytes(&self, method: &str, message: impl Into<Bytes>) -> Result<Vec<Bytes>, Status> {
        let opened = self.open(method, vec![message.into()]);
        self.runtime.block_on(async {
            let mut stream = opened.await?;
            let mut all = Vec::new();
            while let Some(message) = stream.message().await? {
                all.push(message);
            }
            Ok(all)
        })
    }

    /// Makes a call with one answer.
    pub(crate) fn call<T: Message + Default>(&self, method: &str, message: &impl Message) -> Result<T, Status> {
        let answers = self.bytes(method, message.encode_to_vec())?;
        assert_eq!(answers.len(), 1, "one answer of {method}");
        Ok(T::decode(answers[0].clone()).expect("a message of the API"))
    }
}

/// The parts of the API's messages that tests speak. Written by hand: what is tested is the wire.
pub(crate) mod wire {
    /// A request that names a build: the first field of all of them.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct OfBuild {
        #[prost(string, tag = "1")]
        pub id: String,
        /// `follow`, of streams.
        #[prost(bool, tag = "3")]
        pub follow: bool,
    }

    /// `StartBuildRequest`
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Start {
        #[prost(string, tag = "1")]
        pub config: String,
        #[prost(string, tag = "2")]
        pub config_name: String,
        #[prost(string, tag = "8")]
        pub variant: String,
        #[prost(string, tag = "14")]
        pub customer: String,
        #[prost(string, tag = "17")]
        pub request_id: String,
        #[prost(message, optional, tag = "22")]
        pub local: Option<Local>,
    }

    /// `LocalProject`
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Local {
        #[prost(message, optional, tag = "1")]
        pub config: Option<Path>,
    }

    /// `DownloadArtifactRequest`
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct OfFile {
        #[prost(string, tag = "1")]
        pub id: String,
        #[prost(message, optional, tag = "2")]
        pub path: Option<Path>,
    }

    /// `UploadBlobRequest`
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Upload {
        #[prost(string, tag = "1")]
        pub digest: String,
        #[prost(uint64, tag = "2")]
        pub size: u64,
    }

    /// `Path`
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Path {
        #[prost(string, tag = "1")]
        pub text: String,
    }

    /// `CreateScheduleRequest`
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct CreateSchedule {
        #[prost(message, optional, tag = "1")]
        pub schedule: Option<Schedule>,
    }

    /// `Schedule`
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Schedule {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(string, tag = "3")]
        pub cron: String,
        #[prost(message, optional, tag = "6")]
        pub git: Option<Git>,
    }

    /// `GitConfig`
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Git {
        #[prost(string, tag = "1")]
        pub url: String,
        #[prost(string, tag = "2")]
        pub reference: String,
    }

    /// `CreateTokenRequest`
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct CreateToken {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(int32, repeated, tag = "2")]
        pub scopes: Vec<i32>,
        #[prost(uint64, tag = "4")]
        pub lifetime_s: u64,
    }

    /// `CreateTokenResponse`
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Created {
        #[prost(string, tag = "2")]
        pub secret: String,
    }

    /// `RunScheduleRequest`
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct RunSchedule {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(message, optional, tag = "3")]
        pub at: Option<Time>,
    }

    /// `google.protobuf.Timestamp`
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Time {
        #[prost(int64, tag = "1")]
        pub seconds: i64,
    }

    /// `RunScheduleResponse`
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Ran {
        #[prost(string, tag = "1")]
        pub build_id: String,
    }

    /// `StartBuildResponse`
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Started {
        #[prost(string, tag = "1")]
        pub build_id: String,
        #[prost(bool, tag = "2")]
        pub repeated: bool,
    }

    /// `LogLines`
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Lines {
        #[prost(message, repeated, tag = "1")]
        pub lines: Vec<Line>,
    }

    /// `LogLine`
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Line {
        #[prost(uint64, tag = "1")]
        pub seq: u64,
        #[prost(string, tag = "3")]
        pub text: String,
    }

    /// `Queue`
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Queue {
        #[prost(message, repeated, tag = "3")]
        pub running: Vec<Entry>,
        #[prost(message, repeated, tag = "4")]
        pub waiting: Vec<Entry>,
    }

    /// `QueueEntry`
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Entry {
        #[prost(string, tag = "1")]
        pub build_id: String,
        #[prost(string, tag = "6")]
        pub reason: String,
    }

    /// `CancelBuildResponse`, `ListBuildsResponse`, `ServerInfo`: their bytes are what is looked at.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Anything {}
}
