# bb.fetch2 ends a task at the first source that cannot be had. With this class it goes on with the others, and names all that failed.
addhandler smidr_fetch_all
smidr_fetch_all[eventmask] = "bb.build.TaskStarted"
python smidr_fetch_all() {
    if e._task != "do_fetch":
        return
    # This process runs that task alone.
    download = bb.fetch2.Fetch.download

    def download_all(self, urls=None):
        failed = []
        for url in urls or self.urls:
            try:
                download(self, [url])
            except bb.fetch2.BBFetchException as problem:
                failed.append((url, problem))
        for url, _ in failed:
            bb.note("Could not be fetched: %s" % url)
        if failed:
            raise failed[0][1]

    bb.fetch2.Fetch.download = download_all
}
