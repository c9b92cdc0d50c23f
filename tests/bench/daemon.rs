//! Load on a daemon, for `scripts/bench daemon`: each subject connects, asks, and prints a line of figures. It starts no daemon.
//!
//! A daemon's place is `unix:PATH`, or `tls:HOST:PORT` with a token in SMIDR_TOKEN. Certificates are not looked at: all of it is on loopback.
#![expect(clippy::print_stdout, reason = "figures")]

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::http::uri::PathAndQuery;
use bytes::Buf as _;
use hyper_util::rt::TokioIo;
use prost::Message as _;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    net::{TcpStream, UnixStream},
    sync::mpsc,
};
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder},
    transport::{Channel, Endpoint, Uri},
};

use proto::{ListBuildsRequest, LogLines, StartBuildRequest, StreamLogsRequest, smidr_client::SmidrClient};

#[expect(dead_code, reason = "what only a server needs")]
#[cfg_attr(test, expect(unused_imports, reason = "its tests are the library's"))]
#[path = "../../src/rpc/batch.rs"]
mod batch;
#[expect(
    unreachable_pub,
    unused_qualifications,
    clippy::large_enum_variant,
    clippy::allow_attributes,
    reason = "generated"
)]
mod proto {
    pub(crate) use super::batch::LogLines;
    include!("../../src/rpc/generated/smidr.v1.rs");
}
mod rpc {
    pub(crate) use super::batch;
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What of a stream is looked at: that its items come in order. The text of one in many clients is read too.
struct Counted {
    first: u64,
    last: u64,
    items: u64,
    lines: Option<LogLines>,
}

/// Decodes no more than the numbers of items, so that clients take little of the machine from the daemon.
struct Counting {
    whole: bool,
}

impl Codec for Counting {
    type Encode = StreamLogsRequest;
    type Decode = Counted;
    type Encoder = <tonic_prost::ProstCodec<StreamLogsRequest, LogLines> as Codec>::Encoder;
    type Decoder = Self;

    fn encoder(&mut self) -> Self::Encoder {
        tonic_prost::ProstCodec::<StreamLogsRequest, LogLines>::default().encoder()
    }

    fn decoder(&mut self) -> Self {
        Self { whole: self.whole }
    }
}

impl Decoder for Counting {
    type Item = Counted;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Counted>, Status> {
        let message = from.copy_to_bytes(from.remaining());
        let broken = |error: prost::DecodeError| Status::internal(error.to_string());
        let lines = self.whole.then(|| LogLines::decode(message.clone())).transpose().map_err(broken)?;
        let mut rest = message;
        let mut counted = Counted { first: 0, last: 0, items: 0, lines };
        while rest.has_remaining() {
            // Field 1 of the message, an item; in it first field 1, its number.
            let tag = rest.get_u8();
            let length = prost::encoding::decode_varint(&mut rest).map_err(broken)?;
            let mut item = rest.split_to(usize::try_from(length).unwrap_or_default().min(rest.len()));
            if tag != 0x0a || item.get_u8() != 0x08 {
                return Err(Status::internal("not an item with a number"));
            }
            let seq = prost::encoding::decode_varint(&mut item).map_err(broken)?;
            // Several lines may be of one record, and some records have none.
            if seq < counted.last {
                return Err(Status::internal(format!("{seq} comes after {}", counted.last)));
            }
            counted.first = if counted.items == 0 { seq } else { counted.first };
            (counted.last, counted.items) = (seq, counted.items + 1);
        }
        Ok(Some(counted))
    }
}

#[derive(Debug)]
struct AnyServer(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A connection of its own.
async fn connect(place: &str) -> Result<Channel, Failure> {
    let endpoint = Endpoint::from_static("http://smidr");
    if let Some(path) = place.strip_prefix("unix:") {
        let path = PathBuf::from(path);
        let dial = move |_: Uri| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        };
        return Ok(endpoint.connect_with_connector(tower::service_fn(dial)).await?);
    }
    let address = place.strip_prefix("tls:").ok_or("neither unix: nor tls:")?.to_owned();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider)));
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config));
    let dial = move |_: Uri| {
        let (tls, address) = (tls.clone(), address.clone());
        async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, stream).await?))
        }
    };
    Ok(endpoint.connect_with_connector(tower::service_fn(dial)).await?)
}

fn asking<T>(message: T) -> Result<Request<T>, Failure> {
    let mut request = Request::new(message);
    if let Ok(token) = std::env::var("SMIDR_TOKEN") {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
    }
    Ok(request)
}

async fn logs(channel: Channel, asked: StreamLogsRequest, whole: bool) -> Result<Streaming<Counted>, Failure> {
    let mut grpc = Grpc::new(channel);
    grpc.ready().await?;
    let path = PathAndQuery::from_static("/smidr.v1.Smidr/StreamLogs");
    Ok(grpc.server_streaming(asking(asked)?, path, Counting { whole }).await?.into_inner())
}

/// A share of measurements, in ms.
fn at(share: f64, times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    let index = ((times.len() as f64 * share).ceil() as usize).clamp(1, times.len().max(1)) - 1;
    times.get(index).copied().unwrap_or_default().as_secs_f64() * 1e3
}

fn figures(times: &mut [Duration]) -> String {
    format!("median {:.2} ms, 99 % {:.2} ms", at(0.5, times), at(0.99, times))
}

fn submission(config: &str, number: u64) -> StartBuildRequest {
    StartBuildRequest {
        config: config.into(),
        customer: "acme".into(),
        priority: (number % 3) as i32,
        ..Default::default()
    }
}

/// start PLACE CONFIG COUNT FOLDER: one submission after the other, each beside a write of 8 KiB with fsync in that folder.
async fn start(place: &str, config: &str, count: u64, folder: &Path) -> Result<(), Failure> {
    let mut client = SmidrClient::new(connect(place).await?);
    let mut file = File::create(folder.join("written"))?;
    let (mut starts, mut writes) = (Vec::new(), Vec::new());
    for number in 0..count {
        let begun = Instant::now();
        client.start_build(asking(submission(config, number))?).await?;
        starts.push(begun.elapsed());
        let begun = Instant::now();
        file.write_all(&[b'x'; 8192])?;
        file.sync_all()?;
        writes.push(begun.elapsed());
    }
    let more = at(0.99, &mut starts) - at(0.99, &mut writes);
    println!("{}; write and fsync {}; 99 % differs by {more:.2} ms", figures(&mut starts), figures(&mut writes));
    Ok(())
}

/// rate PLACE CONFIG COUNT CLIENTS: submissions of several clients at once.
async fn rate(place: &str, config: &str, count: u64, clients: u64) -> Result<(), Failure> {
    let mut all = Vec::new();
    let (next, begun) = (Arc::new(AtomicU64::new(0)), Instant::now());
    for _ in 0..clients {
        let mut client = SmidrClient::new(connect(place).await?);
        let (config, next) = (config.to_owned(), next.clone());
        all.push(tokio::spawn(async move {
            let mut times = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok::<_, Failure>(times);
                }
                let begun = Instant::now();
                client.start_build(asking(submission(&config, number))?).await?;
                times.push(begun.elapsed());
            }
        }));
    }
    let mut times = Vec::new();
    for one in all {
        times.extend(one.await??);
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{:.0} a second ({} in {seconds:.1} s, {clients} clients), {}",
        times.len() as f64 / seconds,
        times.len(),
        figures(&mut times)
    );
    Ok(())
}

/// list PLACE COUNT CUSTOMER: pages of 50, the first one and the one behind it, of all builds or of a customer's.
async fn list(place: &str, count: u64, customer: &str) -> Result<(), Failure> {
    let mut client = SmidrClient::new(connect(place).await?);
    let mut times = Vec::new();
    let mut token = String::new();
    for _ in 0..count {
        let wanted = ListBuildsRequest { customer: customer.into(), page_token: token, ..Default::default() };
        let begun = Instant::now();
        let page = client.list_builds(asking(wanted)?).await?.into_inner();
        times.push(begun.elapsed());
        if page.builds.len() != 50 {
            return Err(format!("a page of {} builds", page.builds.len()).into());
        }
        token = page.next_page_token;
    }
    println!("{}", figures(&mut times));
    Ok(())
}

/// follow PLACE BUILD CLIENTS RECORDS: all clients read the whole log at once, each over a connection of its own.
async fn follow(place: &str, build: &str, clients: u64, records: u64) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut all = Vec::new();
    for number in 0..clients {
        let channel = connect(place).await?;
        let asked = StreamLogsRequest { build_id: build.into(), follow: true, ..Default::default() };
        all.push(tokio::spawn(async move {
            let mut stream = logs(channel, asked, number == 0).await?;
            let (mut last, mut items, mut task) = (0, 0, 0);
            while let Some(counted) = stream.message().await? {
                if counted.first < last {
                    return Err(format!("{} comes after {last}", counted.first).into());
                }
                // The build says `NOTE: Running task 1 of …`, and so on.
                for line in counted.lines.into_iter().flat_map(|lines| lines.items) {
                    let said = line
                        .text
                        .strip_prefix("NOTE: Running task ")
                        .and_then(|rest| rest.split(' ').next()?.parse().ok());
                    if said.is_some_and(|said: u64| said != task + 1) {
                        return Err(format!("{} comes after {task}", line.text).into());
                    }
                    task = said.unwrap_or(task);
                }
                (last, items) = (counted.last, items + counted.items);
            }
            Ok::<_, Failure>(items)
        }));
    }
    let mut lines = 0;
    for one in all {
        let items = one.await??;
        if items < records {
            return Err(format!("{items} of {records} lines").into());
        }
        lines += items;
    }
    println!("{lines} {:.1}", begun.elapsed().as_secs_f64());
    Ok(())
}

/// A build that seems to run: its lock is held, its control socket takes connections, its journal is written here.
struct Fake {
    id: String,
    journal: File,
    seq: u64,
    _lock: File,
    _socket: rustix::fd::OwnedFd,
}

impl Fake {
    fn new(home: &Path) -> Result<Self, Failure> {
        let id = "idle-00000001".to_owned();
        let folder = home.join("builds").join(&id);
        fs::create_dir_all(&folder)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        fs::create_dir_all(home.join("locks"))?;
        let lock = File::create(home.join("locks").join(format!("build-{id}.lock")))?;
        lock.lock()?;
        let socket = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::SEQPACKET, None)?;
        rustix::net::bind(&socket, &rustix::net::SocketAddrUnix::new(folder.join("control.sock"))?)?;
        rustix::net::listen(&socket, 64)?;
        let journal = File::create(folder.join("events.jsonl"))?;
        let mut fake = Self { id, journal, seq: 0, _lock: lock, _socket: socket };
        fake.write(
            r#""event":"build_started","name":"idle","targets":["x"],"machine":"m","variant":null,"config":null"#,
        )?;
        Ok(fake)
    }

    fn write(&mut self, event: &str) -> std::io::Result<()> {
        self.seq += 1;
        let line =
            format!("{{\"build\":\"{}\",\"seq\":{},\"at\":\"2026-01-01T00:00:00Z\",{event}}}\n", self.id, self.seq);
        self.journal.write_all(line.as_bytes())
    }
}

/// What a process has used of the processors, in hundredths of a second, which are Linux's unit.
fn used(pid: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = text.rsplit(") ").next().unwrap_or_default().split(' ');
    fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

fn resident(pid: &str) -> String {
    let mut text = String::new();
    let read = File::open(format!("/proc/{pid}/status")).and_then(|mut file| file.read_to_string(&mut text));
    let of = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("?").trim().to_owned();
    read.map_or_else(
        |_| "?".into(),
        |_| format!("{} (at most {}, threads {})", of("VmRSS:"), of("VmHWM:"), of("Threads:")),
    )
}

/// idle PLACE HOME SMIDR PID CONNECTIONS STREAMS LINES: followers of a build that says little; of each connection one is measured.
async fn idle(args: &[String]) -> Result<(), Failure> {
    let [place, home, smidr, pid, connections, streams, lines] = args else { return Err("7 arguments".into()) };
    let (connections, streams, lines): (u64, u64, u64) = (connections.parse()?, streams.parse()?, lines.parse()?);
    let mut fake = Fake::new(Path::new(home))?;
    let rebuilt = Command::new(smidr).args(["history", "rebuild"]).output()?;
    if !rebuilt.status.success() {
        return Err(String::from_utf8_lossy(&rebuilt.stderr).into());
    }
    let before = resident(pid);
    let (told, mut times) = mpsc::unbounded_channel();
    let (begun, all) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    for _ in 0..connections {
        let channel = connect(place).await?;
        let mut opened = Vec::new();
        for number in 0..streams {
            let asked = StreamLogsRequest { build_id: fake.id.clone(), follow: true, ..Default::default() };
            opened.push(tokio::spawn(logs(channel.clone(), asked, number == 0)));
        }
        for (number, stream) in opened.into_iter().enumerate() {
            let (mut stream, told, all) = (stream.await??, told.clone(), all.clone());
            tokio::spawn(async move {
                while let Ok(Some(counted)) = stream.message().await {
                    let now = begun.elapsed();
                    all.fetch_add(counted.items, Ordering::Relaxed);
                    let lines = counted.lines.into_iter().flat_map(|lines| lines.items).filter(|_| number == 0);
                    for line in lines {
                        let sent = line.text.parse().map_or(Duration::ZERO, Duration::from_nanos);
                        let _ = told.send(now.saturating_sub(sent));
                    }
                }
            });
        }
    }
    let opened = begun.elapsed();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let quiet = resident(pid);
    let before_lines = [used(pid), used("self")];
    for _ in 0..lines {
        let text = begun.elapsed().as_nanos();
        fake.write(&format!(r#""event":"console","line":"{text}""#))?;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut measured = Vec::new();
    while let Ok(time) = times.try_recv() {
        measured.push(time);
    }
    let wanted = connections * streams * lines;
    let each = |before: u64, pid| (used(pid) - before) as f64 * 1e4 / wanted as f64;
    let (daemon, clients) = (each(before_lines[0], pid), each(before_lines[1], "self"));
    let (count, all) = (measured.len(), all.load(Ordering::Relaxed));
    println!(
        "{} followers in {:.1} s; before {before}, silent {quiet}, after {}",
        connections * streams,
        opened.as_secs_f64(),
        resident(pid)
    );
    println!("{}, of {count} lines of {}; in all {all} of {wanted}", figures(&mut measured), connections * lines);
    println!("{daemon:.1} µs of the daemon's processors, {clients:.1} µs of the clients'");
    fake.write(r#""event":"finished","outcome":{"state":"COMPLETED","bitbake_exit":0,"failed":[],"reasons":[],"kind":null,"hints":[],"duration_ms":1,"artifacts":0,"artifact_bytes":0,"usage":null}"#)?;
    Ok(())
}

fn main() -> Result<(), Failure> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(subject())
}

async fn subject() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let Some((subject, rest)) = args.split_first() else { return Ok(()) };
    let args: Vec<&str> = rest.iter().map(String::as_str).collect();
    match (subject.as_str(), args.as_slice()) {
        ("start", [place, config, count, folder]) => {
            start(place, &fs::read_to_string(config)?, count.parse()?, Path::new(folder)).await
        }
        ("rate", [place, config, count, clients]) => {
            rate(place, &fs::read_to_string(config)?, count.parse()?, clients.parse()?).await
        }
        ("list", [place, count, customer]) => list(place, count.parse()?, customer).await,
        ("follow", [place, build, clients, records]) => follow(place, build, clients.parse()?, records.parse()?).await,
        ("idle", _) => idle(rest).await,
        _ => Err("start, rate, list, follow, or idle".into()),
    }
}
