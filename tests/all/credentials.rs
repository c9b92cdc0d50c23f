//! Untrusted rootfs recipes: which of their steps see the caller's credentials, and which have a network.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    thread,
};

use super::support::{Done, Smidr, World};

/// Secrets that no command of a recipe may read.
const SECRET: &str = "hunter2";

/// Prints all that it sees, tries to reach a server, and fails so that its output is shown.
const LOOK: &str = "env; cat /.smidr/pip.conf /root/.config/pip/pip.conf 2>/dev/null || :; cat /proc/*/environ | tr '\\0' '\\n'; \
                    python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", PORT), 5)' 2>&1 | tail -1; echo seen; exit 3";

/// A server that answers 404, and the heads of the requests that it got. Serves until the test ends.
fn server() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let heads = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&heads);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            kept.lock().expect("whole").push("connected".into());
            let lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            kept.lock().expect("whole").push(head.join("\n"));
            let _ = (&stream).write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    (address, heads)
}

fn with_credentials(world: &World, index: SocketAddr) -> Smidr {
    let config = world.home.join(".config/pip/pip.conf");
    fs::create_dir_all(config.parent().expect("a folder")).expect("a folder");
    fs::write(config, format!("[global]\nextra-index-url = http://user:{SECRET}@127.0.0.1:9/simple\n"))
        .expect("a file");
    let proxy = format!("http://user:{SECRET}@127.0.0.1:9");
    let index = format!("http://user:{SECRET}@{index}/simple");
    // No other variables of the test's environment.
    let smidr = world.smidr().env("PIP_INDEX_URL", index).env("PIP_EXTRA_INDEX_URL", "").env("PIP_RETRIES", "0");
    smidr.env("https_proxy", proxy).env("http_proxy", "http://127.0.0.1:8").env("no_proxy", "127.0.0.1")
}

fn build(world: &World, index: SocketAddr, recipe: &str) -> Done {
    let name = format!("creds-{}", std::process::id());
    fs::write(world.work.join(format!("{name}.yaml")), format!("base: {{image: hello}}\n{recipe}")).expect("a recipe");
    let done = with_credentials(world, index).args(["image", "build", &name]).run();
    assert!(!done.err.contains(SECRET) && !done.out.contains(SECRET), "{done:?}");
    done
}

#[test]
fn commands_of_a_recipe_see_no_credentials_and_no_network() {
    let Some(world) = World::with_image("credentials::commands_of_a_recipe_see_no_credentials_and_no_network") else {
        return;
    };
    let (index, heads) = server();
    let look = LOOK.replace("PORT", &index.port().to_string());
    let commands = format!("commands:\n  - |\n    {look}\n");
    let alone = build(&world, index, &commands);
    alone.expect_err("seen").expect_err("Connection refused").expect_err("network: true");
    for hidden in ["proxy=", "PIP_INDEX", "PIP_CONFIG", "extra-index-url"] {
        assert!(!alone.err.contains(hidden), "{hidden} in {}", alone.err);
    }
    assert!(heads.lock().expect("whole").is_empty());
    // With a network it gets the settings of the network, without secrets.
    let with = build(&world, index, &format!("{commands}network: true\n"));
    with.expect_err("seen").expect_err("http_proxy=http://127.0.0.1:8");
    assert!(!with.err.contains("https_proxy") && !with.err.contains("refused"), "{}", with.err);
    assert!(!heads.lock().expect("whole").is_empty(), "reached");
}

#[test]
fn pip_gets_the_credentials_and_no_recipe_leads_it_elsewhere() {
    let name = "credentials::pip_gets_the_credentials_and_no_recipe_leads_it_elsewhere";
    let Some(world) = World::with_image(name) else { return };
    let ((index, asked), (trap, caught)) = (server(), server());
    let hash = "0".repeat(64);
    let recipe = format!(
        "pip: {{requirements: ['nothing==1 --hash=sha256:{hash}']}}\nenv: {{PIP_INDEX_URL: 'http://{trap}/simple', \
         http_proxy: 'http://{trap}', no_proxy: '', PIP_CONFIG_FILE: /dev/null}}\n"
    );
    build(&world, index, &recipe).expect_code(1).expect_err("pip install ended with exit status");
    let asked = asked.lock().expect("whole").join("\n");
    // The password is one of the user's own index: base64 of user:hunter2.
    assert!(asked.contains("GET /simple/nothing/") && asked.contains("dXNlcjpodW50ZXIy"), "{asked}");
    assert_eq!(caught.lock().expect("whole").concat(), "");
}
