"""A worker with a connection to its peers: says that it trains once all are connected, and fails when one is gone."""

import os
import select
import socket
import time

rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
place = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))


def connected() -> socket.socket:
    while True:
        try:
            return socket.create_connection(place, timeout=60)
        except ConnectionRefusedError:
            time.sleep(0.01)


if rank == 0:
    with socket.create_server(place) as server:
        peers = [server.accept()[0] for _ in range(world - 1)]
    for peer in peers:
        peer.sendall(b"all are here")
else:
    peers = [connected()]
    if not peers[0].recv(64):
        os._exit(1)
os.write(1, f"training {rank} {os.getpid()} {world}\n".encode())
select.select(peers, [], [])
os._exit(1)
