"""What files of the common MIME types are called. Shared by daemon and client; imports nothing."""

EXTENSIONS = {
    "application/javascript": ".js",
    "application/json": ".json",
    "application/pdf": ".pdf",
    "audio/mpeg": ".mp3",
    "audio/wav": ".wav",
    "image/gif": ".gif",
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/svg+xml": ".svg",
    "image/webp": ".webp",
    "text/css": ".css",
    "text/csv": ".csv",
    "text/html": ".html",
    "text/latex": ".tex",
    "text/markdown": ".md",
    "video/mp4": ".mp4",
}

ALIASES = {".htm": ".html", ".jpeg": ".jpg"}


def extension(mime: str) -> str:
    """The end of the name of a file of this type; empty when it has none of its own."""
    return EXTENSIONS.get(mime) or (".json" if mime.endswith("+json") else "")


def is_known(ending: str) -> bool:
    """Whether a file that ends so is of a type."""
    return ALIASES.get(ending, ending) in EXTENSIONS.values()


def fits(mime: str, ending: str) -> bool:
    """Whether a file that ends so is of this type."""
    return extension(mime) == ALIASES.get(ending, ending)
