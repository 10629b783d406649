//! A registry on an address and a directory, until Ctrl-C or the end of standard input:
//! `cargo run --release -p registry --example serve -- 127.0.0.1:5000 /tmp/registry [sparse]`.

use std::error::Error;

use registry::keeping::Sparse;
use registry::{Server, Settings};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let addr = arguments.next().unwrap_or_else(|| "127.0.0.1:5000".to_owned()).parse()?;
    let data = arguments.next().ok_or("usage: serve ADDRESS DIRECTORY [sparse]")?;
    let mut settings = Settings::new(addr, data);
    settings.keeping.sparse = Sparse::Everywhere(arguments.next().is_some_and(|word| word == "sparse"));
    let server = Server::bind(settings).await?;
    #[allow(clippy::print_stdout)] // tests wait for this line
    {
        println!("listening on {}", server.local_addr());
    }
    server
        .serve(async {
            let _ = tokio::signal::ctrl_c().await; // an error means that there is no such signal here
        })
        .await;
    Ok(())
}
