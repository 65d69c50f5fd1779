"""What is torch's: rendezvous handlers, log plug-ins, event and metric handlers. torch is imported only when used."""
