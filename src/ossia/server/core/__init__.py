"""What all APIs share: the service, its engine thread, admission, and requests and events in one form."""
