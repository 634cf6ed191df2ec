"""Addresses of MLflow's pages. They ask for its view of trainings: without, it may open on that of language models."""

import http.client
from urllib.parse import urlsplit

from diffalign.runtime import switches
from diffalign.tracking.location import place, uri

PORT = 5000
VIEW = "workflowType=machine_learning"
PATIENCE = 1.0
"""Seconds to wait for an answer of MLflow's pages."""


def base(port: int = PORT) -> str:
    """Returns the address of MLflow's pages: the server's, or where `pipeline.py ui` shows the local database.

    `DIFFALIGN_MLFLOW_UI` names it where people reach it by another address than the stages do.
    """
    here = place().rstrip("/") if uri().startswith("http") else f"http://127.0.0.1:{port}"
    return str(switches.read("DIFFALIGN_MLFLOW_UI") or here)


def page(experiment: str, run: str = "") -> str:
    """Returns the path of a run's page, or of the table of an experiment's runs."""
    return f"#/experiments/{experiment}/runs{run and f'/{run}'}?{VIEW}"


def told(link: str) -> str:
    """Returns a link as it's told to people: with how to open it where no MLflow answers at a local address."""
    at = urlsplit(link)
    if at.hostname != "127.0.0.1" or answers(at.port or PORT):
        return link
    return f"make ui, then {link}"


def answers(port: int) -> bool:
    """Tells whether an MLflow answers at a port of this machine."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", "/version")
        answer = connection.getresponse()
        return answer.status == 200 and len(answer.read(100)) < 30
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
